"""Every knob with its default, and the checks that a config passes before anything is computed.

Nothing here imports JAX or TensorFlow: a mistake in a config is reported at once.
"""

import ast
import math
import re
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from flaxcifar.errors import UserError
from flaxcifar.registry import suggestion

# Sections that name a registered function; its further keywords are the registry's to check.
_NAMED = ("model", "optimizer", "schedule")


def default_config() -> ConfigDict:
    """Returns every knob at its default; a file under `configs/` overrides a few of them.

    `dict(name=..., **kwargs)` names a registered function; its own keywords may be added. Durations
    inside such a dict end in `_steps`, `_epochs` or `_percent` (of the whole run). The config is
    locked: setting a key that does not exist is an error at once.
    """
    c = ConfigDict()
    # The random seed of everything: initial parameters, split, order, augmentation, dropout.
    c.seed = 0
    # A function of flaxcifar/models and its keywords.
    c.model = ConfigDict({"name": "crcv"})
    # Compute precision of the model: float32 or bfloat16; parameters and logits are float32.
    c.precision = "float32"

    c.data = ConfigDict()
    # cifar10, cifar100, any other TFDS image classification dataset, folder or synthetic.
    c.data.name = "cifar100"
    # Where it lies: a TFDS data_dir, an archive or its folder, an image folder; "" = download.
    c.data.dir = ""
    # Images are resized to this height and width when they are decoded.
    c.data.image_size = 32
    # Share of the training split that is held out for early stopping and model choice.
    c.data.validation_percent = 10.0
    # Statistics of the training images: "channel", "scalar" (one for all) or "unit" (/ 255).
    c.data.normalization = "channel"
    # "host" (tf.data) or "resident" (the whole dataset on the device).
    c.data.pipeline = "host"
    # Decoded images are kept here; "" = ~/.cache/flaxcifar.
    c.data.cache_dir = ""

    # Augmentations in order, each dict(name=..., **kwargs) of flaxcifar/augment.py.
    c.augment = ()

    # Global batch: split evenly over all devices.
    c.batch_size = 128
    # Global batch of evaluation; padded and masked, so it changes no result.
    c.eval_batch_size = 512
    # Length of the run in epochs, or in steps where total_steps is not 0.
    c.total_epochs = 200
    c.total_steps = 0
    # Steps that one dispatch runs on the device; 0 = as the platform likes best.
    c.steps_per_dispatch = 0

    # An optimizer of optax (or of flaxcifar/optim.py) and its keywords.
    c.optimizer = ConfigDict({"name": "sgd", "learning_rate": 0.1, "momentum": 0.9})
    # How the learning rate changes: a function of flaxcifar/schedules.py and its keywords.
    c.schedule = ConfigDict({"name": "constant"})
    # (pattern, scale) pairs, first match wins: the scale of the learning rate, or "frozen".
    c.param_groups = ()
    # Largest global norm of the gradient; 0 = no clipping.
    c.gradient_clip = 0.0
    # Batches whose gradients are averaged into one update.
    c.accumulation_steps = 1
    # Decay of the exponential moving average of the parameters that is evaluated; 0 = none.
    c.ema_decay = 0.0
    # Share of the target probability that is spread evenly over all classes.
    c.label_smoothing = 0.0
    # Adds coefficient * sum(parameter ** 2) of the parameters that match to the loss.
    c.l2 = ConfigDict({"coefficient": 0.0, "pattern": ".*/kernel"})

    c.early_stopping = ConfigDict()
    # Evaluations without improvement after which training stops; 0 = never.
    c.early_stopping.patience = 0
    # The validation metric that chooses the best checkpoint, too: loss, accuracy, top5_accuracy.
    c.early_stopping.metric = "loss"
    # "min" or "max".
    c.early_stopping.mode = "min"
    # A smaller change is no improvement.
    c.early_stopping.min_delta = 0.0
    # Evaluate the test split with the best parameters instead of the last.
    c.early_stopping.restore_best = True

    # The workdir of an earlier run whose best parameters this one starts from; "" = none.
    c.init_from = ""
    # Start the head anew even where its shape agrees.
    c.init_drop_head = False
    return _locked(c)


def load(path: str | Path, overrides: Sequence[str] = ()) -> ConfigDict:
    """Returns the config of a Python file's `get_config()` with `overrides` applied, checked.

    An override is `--config.any.key=value`, or the same as two arguments. Where the key holds a
    string the value is taken as it is; else it is a Python literal (`0.1`, `true`, `(60, 120)`).
    Another name for a model, optimizer or schedule drops the keywords of the one in the file (an
    optimizer keeps its learning rate). Raises UserError for whatever is wrong with either.
    """
    config = _plain(_get_config(Path(path)))
    assignments = _assignments(overrides)
    for key, text in assignments.items():
        section, _, leaf = key.rpartition(".")
        if section in _NAMED and leaf == "name" and isinstance(config.get(section), dict):
            if text != config[section].get("name"):
                kept = {"learning_rate"} & config[section].keys() if section == "optimizer" else ()
                config[section] = {k: config[section][k] for k in kept}
                config[section]["name"] = text
    for key, text in assignments.items():
        _assign(config, key, text)
    config = _filled(config, _plain(default_config()))
    check(config)
    return from_json(config)


def _get_config(path: Path) -> Mapping:
    """Runs the file; whatever it raises becomes one line with the file's line number."""
    if not path.is_file():
        raise UserError(f"there is no config file {str(path)!r}")
    scope: dict[str, Any] = {"__name__": "config", "__file__": str(path)}
    try:
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), scope)
        if not callable(scope.get("get_config")):
            raise UserError(f"{path} defines no function get_config()")
        config = scope["get_config"]()
    except UserError:
        raise
    except Exception as error:
        lines = [
            f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)
        ]
        where = f"{path}:{lines[-1]}" if lines else str(path)
        raise UserError(
            f"{where}: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(config, Mapping | ConfigDict):
        raise UserError(f"get_config() of {path} returns a {type(config).__name__}, not a config")
    return config


def _assignments(overrides: Sequence[str]) -> dict[str, str]:
    """Returns {dotted key: text} of the arguments; the last one of a key counts."""
    result, arguments = {}, list(overrides)
    while arguments:
        argument = arguments.pop(0)
        key, equals, text = argument.removeprefix("--config.").partition("=")
        if not argument.startswith("--config.") or not all(key.split(".")):
            raise UserError(f"unknown argument {argument!r}: expected --config.some.key=value")
        if not equals:
            if not arguments or arguments[0].startswith("--"):
                raise UserError(f"{argument} needs a value: {argument}=value")
            text = arguments.pop(0)
        result[key] = text
    return result


def _assign(config: dict, key: str, text: str) -> None:
    """Sets the dotted `key`, in place, to what `text` means there."""
    *parents, leaf = key.split(".")
    for depth, parent in enumerate(parents, 1):
        config = config.setdefault(parent, {})
        if not isinstance(config, dict):
            above = "config." + ".".join(parents[:depth])
            raise UserError(f"{above} is no section: set it as a whole, --{above}=value")
    current = config.get(leaf)
    if isinstance(current, str):
        config[leaf] = text
        return
    try:
        value = ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = text
    if isinstance(current, int | float) and isinstance(value, str):
        raise UserError(f"config.{key} is {text!r}, not {_type_words(current)}")
    config[leaf] = _plain(value)


def _plain(value: Any) -> Any:
    """Returns configs and mappings as dicts, and lists as tuples, all the way down."""
    if isinstance(value, Mapping | ConfigDict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_plain(item) for item in value)
    return value


def _filled(config: Any, default: Any) -> Any:
    """Returns `config` with missing keys at their defaults, and integers as floats where due."""
    if isinstance(config, dict) and isinstance(default, dict):
        named = config.keys() & set(_NAMED)
        return default | {
            key: value if key in named else _filled(value, default.get(key))
            for key, value in config.items()
        }
    return float(config) if isinstance(default, float) and type(config) is int else config


# Which values of the right type are good: the choices, or a test and its words.
_RULES = {
    "seed": (lambda v: 0 <= v < 2**31, "from 0 to 2147483647"),
    "precision": ("float32", "bfloat16"),
    "data.name": (lambda v: v != "", "the name of a dataset"),
    "data.image_size": (lambda v: v >= 1, "at least 1"),
    "data.validation_percent": (lambda v: 0 <= v <= 50, "from 0 to 50"),
    "data.normalization": ("channel", "scalar", "unit"),
    "data.pipeline": ("host", "resident"),
    "batch_size": (lambda v: v >= 1, "at least 1"),
    "eval_batch_size": (lambda v: v >= 1, "at least 1"),
    "total_epochs": (lambda v: v >= 1, "at least 1"),
    "total_steps": (lambda v: v >= 0, "0 (total_epochs counts) or more"),
    "steps_per_dispatch": (lambda v: v >= 0, "0 (automatic) or more"),
    "gradient_clip": (lambda v: v >= 0, "0 (none) or more"),
    "accumulation_steps": (lambda v: v >= 1, "at least 1"),
    "ema_decay": (lambda v: 0 <= v < 1, "at least 0 (none) and below 1"),
    "label_smoothing": (lambda v: 0 <= v < 1, "at least 0 (none) and below 1"),
    "l2.coefficient": (lambda v: v >= 0, "0 (none) or more"),
    "l2.pattern": (lambda v: _is_pattern(v), "a regular expression"),
    "early_stopping.patience": (lambda v: v >= 0, "0 (never) or more"),
    "early_stopping.metric": ("loss", "accuracy", "top5_accuracy"),
    "early_stopping.mode": ("min", "max"),
    "early_stopping.min_delta": (lambda v: v >= 0, "0 or more"),
}


def check(config: Mapping | ConfigDict) -> None:
    """Raises UserError, naming the dotted key, unless every key exists and every value fits.

    Keywords of models, optimizers, schedules and augmentations are their registries' to check.
    """
    plain = _plain(config)
    _check_section("config", plain, _plain(default_config()))
    for index, spec in enumerate(plain["augment"]):
        if not isinstance(spec, dict) or not isinstance(spec.get("name"), str):
            raise UserError(f"config.augment[{index}] is {spec!r}, not dict(name=..., **kwargs)")
    for index, pair in enumerate(plain["param_groups"]):
        if not _is_param_group(pair):
            raise UserError(
                f"config.param_groups[{index}] is {pair!r}, not a pair of a regular expression and "
                'either the scale of the learning rate (0 or more) or "frozen"'
            )
    stopping = plain["early_stopping"]
    if not plain["data"]["validation_percent"]:
        if stopping["patience"] or plain["schedule"]["name"] == "reduce_on_plateau":
            raise UserError(
                "config.data.validation_percent is 0, but early stopping and reduce_on_plateau "
                "watch a validation split: hold some of the training split out"
            )
    better = "min" if stopping["metric"] == "loss" else "max"
    if stopping["mode"] != better:
        raise UserError(
            f"config.early_stopping.mode is {stopping['mode']!r}, but the best "
            f"{stopping['metric']} is its {better}imum: set it to {better!r}"
        )


def _check_section(name: str, section: dict, default: dict) -> None:
    for key, value in section.items():
        if key not in default:
            raise UserError(
                f"unknown key {name}.{key}{_hint(key, default)} (there are: {', '.join(default)})"
            )
        _check_value(f"{name}.{key}", value, default[key])
    for key in default:
        if key not in section:
            raise UserError(f"{name}.{key} is missing")


def _check_value(name: str, value: Any, default: Any) -> None:
    key = name.removeprefix("config.")
    if not _same_type(value, default):
        advice = f"; did you mean {name}.name?" if key in _NAMED and type(value) is str else ""
        raise UserError(f"{name} is {value!r}, not {_type_words(default)}{advice}")
    if key in _NAMED:
        if not isinstance(value.get("name"), str):
            raise UserError(f"{name} needs a name: dict(name=..., **kwargs)")
    elif isinstance(value, dict):
        return _check_section(name, value, default)
    if not _is_plain(value):
        raise UserError(
            f"{name} is {value!r}: only finite numbers, strings, tuples and dicts can be kept"
        )
    if key in _RULES:
        rule = _RULES[key]
        if callable(rule[0]) and not rule[0](value):
            raise UserError(f"{name} is {value!r}; it must be {rule[1]}")
        if not callable(rule[0]) and value not in rule:
            raise UserError(
                f"{name} is {value!r}{suggestion(value, rule)} (there are: {', '.join(rule)})"
            )


def _hint(key: str, default: dict) -> str:
    """Returns a suggestion: a key of that very name in another section, or a similar one here."""
    for section, knobs in _plain(default_config()).items():
        if isinstance(knobs, dict) and key in knobs and key not in ("name",):
            return f"; did you mean config.{section}.{key}?"
    return suggestion(key, default)


def _same_type(value: Any, default: Any) -> bool:
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, type(default)) and isinstance(value, bool) == isinstance(default, bool)


def _type_words(value: Any) -> str:
    """Returns what values of the type of `value` are called, with an article."""
    words = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}
    words |= {tuple: "a tuple or list", dict: "a section of several keys"}
    return words[type(value)]


def _is_plain(value: Any) -> bool:
    """Whether JSON can hold `value`, and give it back as it was."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, bool | int | str)


def _is_pattern(text: Any) -> bool:
    try:
        re.compile(text)
    except (re.error, TypeError):
        return False
    return True


def _is_param_group(pair: Any) -> bool:
    if not isinstance(pair, tuple) or len(pair) != 2 or not _is_pattern(pair[0]):
        return False
    return pair[1] == "frozen" or (_same_type(pair[1], 0.0) and pair[1] >= 0)


def to_json(config: Mapping | ConfigDict) -> dict:
    """Returns the config as a plain dict, for `json.dump`."""
    return _plain(config)


def from_json(data: Mapping) -> ConfigDict:
    """Returns the locked config of such a dict; the lists that JSON makes of tuples are tuples."""
    return _locked(ConfigDict(_plain(data)))


def _locked(config: ConfigDict) -> ConfigDict:
    """Locks every section but those whose keywords depend on a name."""
    config.lock()
    for section in _NAMED:
        if isinstance(config.get(section), ConfigDict):
            config[section].unlock()
    return config


def resolve_durations(spec: Mapping, steps_per_epoch: int, total_steps: int) -> dict:
    """Returns `spec` with every `<stem>_epochs` and `<stem>_percent` as integer `<stem>_steps`.

    A percent is one of `total_steps`; fractions are rounded to the nearest step. A tuple of
    durations becomes a tuple. Raises UserError for a value that is no duration and for one stem in
    two units.
    """
    units = {"steps": 1.0, "epochs": float(steps_per_epoch), "percent": total_steps / 100}
    result: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for key, value in spec.items():
        stem, _, unit = key.rpartition("_")
        if not stem or unit not in units:
            result[key] = value
            continue
        if stem in sources:
            raise UserError(f"{sources[stem]} and {key} are the same duration: give one of them")
        sources[stem] = key
        many = isinstance(value, tuple | list)
        for duration in value if many else [value]:
            if not _same_type(duration, 0.0) or not math.isfinite(duration) or duration < 0:
                raise UserError(f"{key} is {value!r}; a duration is a number of {unit}, 0 or more")
        steps = tuple(round(duration * units[unit]) for duration in (value if many else [value]))
        result[f"{stem}_steps"] = steps if many else steps[0]
    return result
