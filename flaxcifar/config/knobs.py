"""Declares every config key once: default, meaning, valid values, resume and compile rules.

docs/reference/config.md is generated from this file.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

from flaxcifar.rules import FRACTION, MAX_SEED, MAX_STEPS, Rule, at_least, between, fits, one_of


@dataclasses.dataclass(frozen=True)
class Knob:
    """Declares one config key.

    Attributes:
      default: its type is the type of all valid values. A dict is `dict(name=..., **kwargs)` of a
        registered function.
      doc: one or two sentences for the reference page.
      rule: restricts the values; None if the type is restriction enough.
      resumable: whether a resumed run may change it: true for keys that change the length of a run
        or how it is computed, but not the results so far.
      compiled: whether different values need different compiled steps. False for values that the
        steps take as arguments.
    """

    default: Any
    doc: str
    rule: Rule | None = None
    resumable: bool = False
    compiled: bool = True


def _is_pattern(text: Any) -> bool:
    try:
        re.compile(text)
    except (re.error, TypeError):
        return False
    return True


def _is_named(spec: Any) -> bool:
    return isinstance(spec, dict) and isinstance(spec.get("name"), str)


def _is_param_group(pair: Any) -> bool:
    if not isinstance(pair, tuple) or len(pair) != 2 or not _is_pattern(pair[0]):
        return False
    group = pair[1]
    if isinstance(group, dict):
        return _is_named(group) and _is_named(group.get("schedule", {"name": ""}))
    return group == "frozen" or fits(group, Annotated[float, at_least(0)])


def _are_progressive(sizes: tuple) -> bool:
    if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in sizes):
        return False
    ends = [percent for percent, _ in sizes]
    if not all(fits(end, float) for end in ends) or ends != sorted(set(ends)):
        return False
    return all(0 < percent <= 100 and type(n) is int and 1 <= n <= 4096 for percent, n in sizes)


_INT32 = "steps are counted in int32"
_COUNT = between(1, MAX_STEPS, reason=_INT32)
_BATCH = between(1, 2**17, reason="whole batches are in memory")

# Dotted key -> knob, in the order of the reference page.
KNOBS: dict[str, Knob] = {
    "seed": Knob(
        0,
        "Random seed of parameters, validation split, data order, augmentation and dropout.",
        between(0, MAX_SEED),
        compiled=False,
    ),
    "model": Knob({"name": "crcv"}, "A model of `flaxcifar/models` and its keywords."),
    "precision": Knob(
        "float32",
        "Compute precision of the model. Parameters and logits are always float32.",
        one_of("float32", "bfloat16"),
    ),
    "data.name": Knob(
        "cifar100",
        "`cifar10`, `cifar100`, another TFDS image dataset, `folder` or `synthetic`.",
        Rule(bool, "the name of a dataset"),
        compiled=False,
    ),
    "data.dir": Knob(
        "",
        "A TFDS `data_dir`, an archive, its extracted folder, or an image folder. Empty: download.",
        resumable=True,
        compiled=False,
    ),
    "data.image_size": Knob(
        32,
        "Height and width in pixels to which images are resized when they are decoded.",
        between(1, 4096),
        compiled=False,
    ),
    "data.validation_percent": Knob(
        10.0,
        "Percentage of the training split held out for early stopping and model selection.",
        between(0, 50),
        compiled=False,
    ),
    "data.normalization": Knob(
        "channel",
        "Subtract the training images' mean and divide by their standard deviation: per `channel`, "
        "or one `scalar` for all; `unit` divides by 255.",
        one_of("channel", "scalar", "unit"),
        compiled=False,
    ),
    "data.pipeline": Knob(
        "host",
        "`host` streams batches by tf.data; `resident` keeps the training split on the device.",
        one_of("host", "resident"),
        resumable=True,
        compiled=False,
    ),
    "data.memory_gb": Knob(
        0.0,
        "Datasets larger than this many GB are read from disk batch by batch. Changes no result.",
        at_least(0, "half of the memory"),
        resumable=True,
        compiled=False,
    ),
    "data.cache_dir": Knob(
        "",
        "Folder for decoded images. Empty: `~/.cache/flaxcifar`.",
        resumable=True,
        compiled=False,
    ),
    "augment": Knob(
        (),
        "Augmentations of `flaxcifar/data/augment` in order, each `dict(name=..., **kwargs)`.",
        Rule(_is_named, "dict(name=..., **kwargs)", each=True),
    ),
    "progressive_sizes": Knob(
        (),
        "Pairs (percent, size): up to that percentage of the run, training images are resized to "
        "size x size. Each size compiles its own program.",
        Rule(_are_progressive, "pairs (percent, size), with percentages that rise to at most 100"),
    ),
    "batch_size": Knob(128, "Global batch size, split evenly over all devices.", _BATCH),
    "selection.keep_percent": Knob(
        100.0,
        "Percentage of each batch to train on: the examples with the highest loss under the proxy "
        "network.",
        Rule(lambda v: 0 < v <= 100, "above 0 and at most 100"),
    ),
    "selection.every_steps": Knob(4, "Train the proxy network on every N-th batch.", _COUNT),
    "proxy": Knob(
        {"name": "speednet", "widths": (32, 64, 64)},
        "The proxy network that selects examples. It shares the optimizer, schedule and "
        "`param_groups`, whose patterns must match its parameters, too.",
    ),
    "eval_batch_size": Knob(
        512,
        "Global batch size of evaluation. Changes no result: the last batch is padded and masked.",
        _BATCH,
        resumable=True,
        compiled=False,
    ),
    "total_epochs": Knob(
        200, "Length of the run in epochs.", _COUNT, resumable=True, compiled=False
    ),
    "total_steps": Knob(
        0,
        "Length of the run in steps; overrides `total_epochs`.",
        between(0, MAX_STEPS, "use total_epochs", _INT32),
        resumable=True,
        compiled=False,
    ),
    "steps_per_dispatch": Knob(
        0,
        "Training steps per call to the device.",
        at_least(0, "choose automatically"),
        resumable=True,
        compiled=False,
    ),
    "ops.convolution": Knob(
        "auto",
        "Convolution backend on CPUs: `onednn` (compiled code, extra `cpu`), `jax` (plain JAX on "
        "XLA's fast paths), `xla`, or the first available (`auto`). Accelerators always use XLA.",
        one_of("auto", "onednn", "jax", "xla"),
    ),
    "optimizer": Knob(
        {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9},
        "An optimizer of optax or of `flaxcifar/optim`, and its keywords.",
    ),
    "schedule": Knob(
        {"name": "constant"}, "A learning-rate schedule of `flaxcifar/optim`, and its keywords."
    ),
    "param_groups": Knob(
        (),
        'Pairs (pattern, group); the first match wins. A group is a learning-rate scale, "frozen", '
        "or dict(name=..., **kwargs) of its own optimizer, with an optional `schedule`.",
        Rule(
            _is_param_group,
            "a pair (regular expression, group) whose group is a learning-rate scale of at least "
            '0, "frozen", or dict(name=..., **kwargs) of an optimizer',
            each=True,
        ),
    ),
    "gradient_clip": Knob(0.0, "Maximum global norm of the gradient.", at_least(0, "off")),
    "accumulation_steps": Knob(
        1, "Number of batches whose gradients are averaged into one update.", _COUNT
    ),
    "ema_decay": Knob(
        0.0,
        "Decay of the exponential moving average of the parameters, which replaces them in "
        "evaluation. 0 = off.",
        FRACTION,
    ),
    "lookahead.every_steps": Knob(
        0,
        "Every N steps, move the slow weights towards the trained weights, then reset the trained "
        "weights to them. Evaluation uses the slow weights. Excludes `ema_decay`.",
        between(0, MAX_STEPS, "off", _INT32),
    ),
    "lookahead.decay": Knob(
        0.77,
        "Fraction of the slow weights that each move keeps at the end of the run.",
        between(0, 1),
    ),
    "lookahead.power": Knob(
        3.0,
        "Earlier in the run, each move keeps decay * (fraction of the run done) ** power.",
        at_least(0),
    ),
    "label_smoothing": Knob(
        0.0,
        "Fraction of the target probability spread evenly over all classes.",
        FRACTION,
        compiled=False,
    ),
    "l2.coefficient": Knob(
        0.0,
        "Add coefficient * sum(parameter ** 2) of the matching parameters to the loss.",
        at_least(0, "off"),
        compiled=False,
    ),
    "l2.pattern": Knob(
        ".*/kernel",
        "Regular expression of the parameters that the L2 penalty includes.",
        Rule(_is_pattern, "a regular expression"),
    ),
    "early_stopping.patience": Knob(
        0,
        "Stop after this many evaluations without improvement.",
        at_least(0, "never stop"),
        compiled=False,
    ),
    "early_stopping.metric": Knob(
        "loss",
        "Validation metric that decides early stopping and the best checkpoint: `loss`, "
        "`accuracy`, `top5_accuracy` or one of `metrics`.",
        compiled=False,
    ),
    "early_stopping.mode": Knob(
        "min",
        "Direction of improvement: `min` for the loss, `max` for accuracies.",
        one_of("min", "max"),
        compiled=False,
    ),
    "early_stopping.min_delta": Knob(
        0.0, "Minimum change that counts as an improvement.", at_least(0), compiled=False
    ),
    "early_stopping.restore_best": Knob(
        True,
        "Evaluate, predict and export with the parameters of the best epoch; False: of the last.",
        compiled=False,
    ),
    "metrics": Knob(
        (),
        "Metrics to report in addition, each `dict(name=..., **kwargs)`: `top_k` or your own.",
        Rule(_is_named, "dict(name=..., **kwargs)", each=True),
    ),
    "test_views": Knob(
        "none",
        "Test-time augmentation: also report test metrics of logits averaged over several views of "
        "each image: `mirror`, or `mirror_shift` (airbench's six views).",
        one_of("none", "mirror", "mirror_shift"),
        compiled=False,
    ),
    "checkpoint.every_epochs": Knob(
        1,
        "Save a resumable checkpoint every N epochs; 0 = only at the end.",
        at_least(0, "only at the end"),
        resumable=True,
        compiled=False,
    ),
    "checkpoint.every_minutes": Knob(
        10.0,
        "Also save during an epoch, N minutes after the last checkpoint.",
        at_least(0, "never"),
        resumable=True,
        compiled=False,
    ),
    "checkpoint.every_steps": Knob(
        0,
        "Also save during an epoch, N steps after the last checkpoint.",
        at_least(0, "never"),
        resumable=True,
        compiled=False,
    ),
    "report": Knob(
        True,
        "Write report.html at the end of the run: curves, confusion matrix, mistakes and more.",
        resumable=True,
        compiled=False,
    ),
    "on_nonfinite": Knob(
        "stop",
        "When the loss is not finite: `stop`, or `rollback` to the last checkpoint with half the "
        "learning rate, at most three times.",
        one_of("stop", "rollback"),
        resumable=True,
        compiled=False,
    ),
    "init_from": Knob(
        "", "Start from the parameters of this earlier run's workdir.", compiled=False
    ),
    "init_drop_head": Knob(
        False,
        "Initialize the head from scratch even if its shape matches `init_from`.",
        compiled=False,
    ),
}

# Keys whose value is `dict(name=..., **kwargs)`; their keywords are checked by a registry.
NAMED = tuple(key for key, knob in KNOBS.items() if isinstance(knob.default, dict))


def metric_name(spec: Mapping[str, Any]) -> str:
    """Returns the name of a metric in results: that of `dict(name="top_k", k=3)` is top_k_3."""
    keywords = (value for key, value in spec.items() if key != "name")
    return "_".join(map(str, (spec["name"], *keywords)))


def is_storable(value: Any) -> bool:
    """Returns whether `value` survives JSON unchanged."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_storable(item) for key, item in value.items())
    if isinstance(value, tuple):
        return all(map(is_storable, value))
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, bool | int | str)
