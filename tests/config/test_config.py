"""The checks of a config: every rule has a wrong config that names the key, and a right one."""

import json
import math
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from flaxcifar.config import (
    check,
    default_config,
    from_json,
    load,
    resolve_durations,
    to_json,
)
from flaxcifar.config.knobs import KNOBS, NAMED
from flaxcifar.errors import UserError

PLAIN = "from flaxcifar.config import default_config\ndef get_config():\n    c = default_config()\n"


def write(tmp_path, *lines):
    path = tmp_path / "some.py"
    path.write_text(PLAIN + "".join(f"    {line}\n" for line in lines) + "    return c\n")
    return path


def load_error(path, *overrides):
    with pytest.raises(UserError) as caught:
        load(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def check_error(changes):
    plain = to_json(default_config())
    for key, value in changes.items():
        *parents, leaf = key.split(".")
        section = plain
        for parent in parents:
            section = section[parent]
        section[leaf] = value
    with pytest.raises(UserError) as caught:
        check(plain)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_default_config_passes():
    check(default_config())


def test_every_default_can_be_overridden_by_itself(tmp_path):
    path = write(tmp_path)
    expected = to_json(default_config())

    def leaves(section, prefix):
        for key, value in section.items():
            if isinstance(value, dict):
                yield from leaves(value, f"{prefix}.{key}")
            else:
                yield f"{prefix}.{key}={value}"

    assert to_json(load(path, list(leaves(expected, "--config")))) == expected


# The file.


def test_a_file_changes_what_it_says_and_nothing_else(tmp_path):
    path = write(
        tmp_path,
        'c.model = dict(name="vgg16", width=3)',
        "c.batch_size = 64",
        'c.schedule.name = "cosine"',
        "c.schedule.warmup_epochs = 5",
        'c.augment = [dict(name="cutout", size=8)]',
    )
    config = load(path)
    expected = to_json(default_config()) | {
        "model": {"name": "vgg16", "width": 3},
        "batch_size": 64,
        "schedule": {"name": "cosine", "warmup_epochs": 5},
        "augment": ({"name": "cutout", "size": 8},),
    }
    assert to_json(config) == expected
    assert config.model.width == 3 and config.augment[0]["size"] == 8


def test_a_replaced_section_keeps_the_defaults_of_what_it_leaves_out(tmp_path):
    config = load(write(tmp_path, 'c.data = dict(name="cifar10", validation_percent=5)'))
    assert config.data.name == "cifar10"
    assert config.data.image_size == 32
    assert config.data.validation_percent == 5.0
    assert isinstance(config.data.validation_percent, float)


def test_a_replaced_model_forgets_the_keywords_of_the_default(tmp_path):
    config = load(write(tmp_path, 'c.optimizer = dict(name="adam", learning_rate=1e-3)'))
    assert to_json(config)["optimizer"] == {"name": "adam", "learning_rate": 1e-3}


def test_a_file_may_return_a_plain_dict(tmp_path):
    path = tmp_path / "d.py"
    path.write_text("def get_config():\n    return {'batch_size': 7}\n")
    assert load(path).batch_size == 7


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "there is no config file"),
        ("x = 1\n", "defines no function get_config()"),
        ("def get_config():\n    return 3\n", "returns a int, not a config"),
        ("def get_config():\n    return 1 / 0\n", "some.py:2: ZeroDivisionError: division by zero"),
        ("def get_config(:\n", "SyntaxError"),
        (PLAIN + "    c.learning_rat = 1\n", "some.py:4: AttributeError"),
        (PLAIN + "    c.batch_siz = 1\n", 'Did you mean "batch_size"'),
        (PLAIN + "    c.data.nam = 'x'\n", 'Did you mean "name"'),
        (PLAIN + "    c.batch_size = 'x'\n", "batch_size"),
        (PLAIN + "    c.data = dict(nam='x')\n    return c\n", "unknown key config.data.nam"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, text, said):
    path = tmp_path / "some.py"
    if text is not None:
        path.write_text(text)
    message = load_error(path)
    assert said in message
    assert text is None or "config.data" in message or str(path) in message


def test_a_file_leaves_no_bytecode_behind(tmp_path):
    load(write(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["some.py"]


# Overrides.


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("batch_size=64", "batch_size", 64),
        ("ema_decay=0.5", "ema_decay", 0.5),
        ("gradient_clip=1", "gradient_clip", 1.0),
        ("data.validation_percent=5e0", "data.validation_percent", 5.0),
        ("init_drop_head=true", "init_drop_head", True),
        ("early_stopping.restore_best=False", "early_stopping.restore_best", False),
        ("data.dir=/a=b/c", "data.dir", "/a=b/c"),
        ("data.dir=12", "data.dir", "12"),
        ("data.dir=", "data.dir", ""),
        ("augment=[{'name': 'cutout', 'size': 8}]", "augment", ({"name": "cutout", "size": 8},)),
        ("augment=()", "augment", ()),
        (
            "param_groups=[('head/.*', 2), ('.*', 'frozen')]",
            "param_groups",
            (("head/.*", 2), (".*", "frozen")),
        ),
        ("model.width=32", "model.width", 32),
        ("model.size=heavy", "model.size", "heavy"),
        ("schedule.boundaries_epochs=(60, 120)", "schedule.boundaries_epochs", (60, 120)),
        ("optimizer.learning_rate=1e-3", "optimizer.learning_rate", 1e-3),
        ("optimizer={'name': 'adam'}", "optimizer", {"name": "adam"}),
        ("l2={'coefficient': 0.5}", "l2", {"coefficient": 0.5, "pattern": ".*/kernel"}),
    ],
)
@pytest.mark.parametrize("two_arguments", [False, True])
def test_overrides(tmp_path, override, key, value, two_arguments):
    name, _, text = override.partition("=")
    arguments = [f"--config.{name}", text] if two_arguments else [f"--config.{override}"]
    result = to_json(load(write(tmp_path), arguments))
    for part in key.split("."):
        result = result[part]
    assert result == value and type(result) is type(value)


def test_the_last_override_counts(tmp_path):
    arguments = ["--config.seed=1", "--config.batch_size", "8", "--config.seed=2"]
    config = load(write(tmp_path), arguments)
    assert (config.seed, config.batch_size) == (2, 8)


def test_another_name_drops_the_old_keywords_but_not_the_learning_rate(tmp_path):
    path = write(
        tmp_path,
        'c.optimizer = dict(name="sgd", learning_rate=0.3, nesterov=True)',
        'c.model = dict(name="crcv", size="heavy")',
    )
    arguments = ["--config.optimizer.b1=0.8", "--config.optimizer.name=adam"]
    config = to_json(load(path, [*arguments, "--config.model.name=vgg16"]))
    assert config["optimizer"] == {"name": "adam", "learning_rate": 0.3, "b1": 0.8}
    assert config["model"] == {"name": "vgg16"}
    same = to_json(load(path, ["--config.optimizer.name=sgd", "--config.model.name=crcv"]))
    assert same["optimizer"]["nesterov"] is True
    assert same["model"] == {"name": "crcv", "size": "heavy"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config.batch_siz=1"], "unknown key config.batch_siz; did you mean 'batch_size'?"),
        (["--config.data.nam=x"], "unknown key config.data.nam; did you mean 'name'?"),
        (["--config.dat.name=x"], "unknown key config.dat; did you mean 'data'?"),
        (["--config.momentum=0.5"], "did you mean config.optimizer.momentum?"),
        (["--config.patience=3"], "did you mean config.early_stopping.patience?"),
        (["--config.batch_size=many"], "config.batch_size is 'many', not an integer"),
        (["--config.batch_size=1.5"], "config.batch_size is 1.5, not an integer"),
        (["--config.batch_size=true"], "config.batch_size is True, not an integer"),
        (["--config.init_drop_head=1"], "config.init_drop_head is 1, not true or false"),
        (["--config.ema_decay=x"], "config.ema_decay is 'x', not a number"),
        (["--config.augment=cutout"], "config.augment is 'cutout', not a tuple"),
        (["--config.model=vgg16"], "did you mean config.model.name?"),
        (["--config.batch_size.x=1"], "config.batch_size is no section"),
        (["--config.optimizer.learning_rate=fast"], "config.optimizer.learning_rate is 'fast'"),
        (["--config.batch_size"], "--config.batch_size needs a value"),
        (["--config.batch_size", "--config.seed=1"], "--config.batch_size needs a value"),
        (["--batch_size=1"], "unknown argument '--batch_size=1'"),
        (["--config..seed=1"], "unknown argument '--config..seed=1'"),
        (["seed"], "unknown argument 'seed'"),
    ],
)
def test_wrong_overrides(tmp_path, arguments, said):
    assert said in load_error(write(tmp_path), *arguments)


# Values.

WRONG = {
    "seed": (-1, 2**31, 0.5),
    "model": ("vgg16", {}, {"name": 3}),
    "optimizer": ({"learning_rate": 0.1}, {"name": "sgd", "learning_rate": math.nan}),
    "schedule": ({"name": "constant", "x": object()}, {"name": "x", "y": {1: 2}}),
    "precision": ("float16", "", 32),
    "data": ("cifar10", ()),
    "data.name": ("", None),
    "data.image_size": (0, 32.0, "32"),
    "data.validation_percent": (-1.0, 50.1, math.nan, "10"),
    "data.normalization": ("chanel", "none"),
    "data.pipeline": ("tfdata",),
    "data.memory_gb": (-1.0, math.nan, "1"),
    "augment": (
        {"name": "cutout"},
        "cutout",
        ("cutout",),
        ({"size": 3},),
        ({"name": "x", "y": math.inf},),
    ),
    "batch_size": (0, -1, 1.0, True),
    "eval_batch_size": (0,),
    "total_epochs": (0, 1.5),
    "total_steps": (-1,),
    "steps_per_dispatch": (-1,),
    "param_groups": (
        ("head", 1.0),
        (("head",),),
        (("(", 1.0),),
        (("x", -0.1),),
        (("x", math.inf),),
        (("x", "freeze"),),
        (("x", True),),
        ((3, 1.0),),
    ),
    "gradient_clip": (-0.1, math.inf),
    "accumulation_steps": (0,),
    "ema_decay": (-0.1, 1.0),
    "label_smoothing": (-0.1, 1.0),
    "l2": (5e-4,),
    "l2.coefficient": (-1.0,),
    "l2.pattern": ("(", 3),
    "early_stopping.patience": (-1,),
    "early_stopping.metric": ("los", "f1"),
    "early_stopping.mode": ("auto", "max"),
    "early_stopping.min_delta": (-1.0,),
    "early_stopping.restore_best": (1, None),
    "init_from": (None, 3),
}


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, vs in WRONG.items() for v in vs])
def test_wrong_values_are_named(key, value):
    assert f"config.{key}" in check_error({key: value})


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 2**31 - 1, "batch_size": 1, "total_epochs": 1, "total_steps": 0},
        {"data.validation_percent": 0, "ema_decay": 0.999, "label_smoothing": 0},
        {"data.validation_percent": 50.0, "precision": "bfloat16", "data.pipeline": "resident"},
        {"param_groups": [["stage1/.*", "frozen"], ["head", 0], [".*", 0.5]]},
        {"early_stopping.metric": "top5_accuracy", "early_stopping.mode": "max"},
        {"augment": [{"name": "cutout", "size": 8}], "data.normalization": "unit"},
        {"model": {"name": "x", "widths": [1, 2], "inner": {"a": None}}},
    ],
)
def test_right_values_pass(changes):
    with pytest.raises(AssertionError, match="DID NOT RAISE"):
        try:
            check_error(changes)
        except BaseException as failure:
            raise AssertionError(str(failure)) from None


def test_choices_are_suggested_and_listed():
    assert check_error({"data.normalization": "chanel"}).endswith(
        "'chanel'; did you mean 'channel'? (there are: channel, scalar, unit)"
    )


def test_a_mode_that_keeps_the_worst_is_refused():
    assert "'max'" in check_error({"early_stopping.metric": "accuracy"})


@pytest.mark.parametrize(
    "watcher", [{"early_stopping.patience": 3}, {"schedule": {"name": "reduce_on_plateau"}}]
)
def test_watching_needs_a_validation_split(watcher):
    assert "validation_percent is 0" in check_error({"data.validation_percent": 0.0} | watcher)


def test_a_missing_key_is_named():
    plain = to_json(default_config())
    del plain["data"]["dir"]
    with pytest.raises(UserError, match="config.data.dir is missing"):
        check(plain)


def all_keys(section, prefix=()):
    for key, value in section.items():
        yield (*prefix, key)
        if isinstance(value, dict) and key not in NAMED:
            yield from all_keys(value, (*prefix, key))


KEYS = sorted(all_keys(to_json(default_config())))


@settings(deadline=None)
@given(st.sampled_from(KEYS), st.data())
def test_a_misspelt_key_is_always_an_error_that_names_it(path, data):
    plain = to_json(default_config())
    section = plain
    for part in path[:-1]:
        section = section[part]
    key = path[-1]
    at = data.draw(st.integers(0, len(key) - 1))
    mutated = data.draw(
        st.sampled_from([key[:at] + key[at + 1 :], key[:at] + "x" + key[at:], key + "s"])
    )
    if mutated in section:
        return
    section[mutated] = section.pop(key)
    with pytest.raises(UserError) as caught:
        check(plain)
    assert f"config.{'.'.join((*path[:-1], mutated))}" in str(caught.value)
    assert repr(key) in str(caught.value) or "did you mean" in str(caught.value)


# JSON.

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
)
keywords = st.text("abcdefgh_", min_size=1, max_size=8)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keywords, inner, max_size=3),
    ),
    max_leaves=8,
)
specs = st.dictionaries(keywords, values, max_size=4).map(lambda d: {**d, "name": "some"})


@settings(deadline=None)
@given(specs, specs, st.lists(specs, max_size=3), st.floats(0, 50))
def test_json_gives_the_config_back(model, schedule, augment, percent):
    plain = to_json(default_config())
    plain |= {"model": model, "schedule": schedule, "augment": augment}
    plain["data"]["validation_percent"] = percent
    config = from_json(plain)
    back = from_json(json.loads(json.dumps(to_json(config))))
    assert to_json(back) == to_json(config)
    check(back)


def test_json_keeps_tuples(tmp_path):
    path = write(tmp_path, 'c.param_groups = (("head", 1.0),)', "c.model.widths = (1, 2)")
    config = load(path)
    back = from_json(json.loads(json.dumps(to_json(config))))
    assert back.param_groups == (("head", 1.0),) and back.model.widths == (1, 2)
    assert back == config


def test_a_config_is_locked_but_for_keywords():
    for config in (default_config(), from_json(to_json(default_config()))):
        for section in (config, config.data, config.l2, config.early_stopping):
            with pytest.raises(AttributeError):
                section.new = 1
        for section in (config.model, config.optimizer, config.schedule):
            section.new = 1


def test_check_takes_an_unlocked_configdict():
    with pytest.raises(UserError, match="unknown key config.extra "):
        check(ConfigDict(to_json(default_config()) | {"extra": 1}))


# Durations.


@settings(deadline=None)
@given(
    st.integers(0, 10_000),
    st.floats(0, 100),
    st.floats(0, 100),
    st.integers(1, 1000),
    st.integers(1, 100_000),
)
def test_durations_become_steps(steps, epochs, percent, steps_per_epoch, total_steps):
    spec = {"name": "x", "a_steps": steps, "b_epochs": epochs, "c_d_percent": percent, "rate": 0.5}
    result = resolve_durations(spec, steps_per_epoch, total_steps)
    assert result == {
        "name": "x",
        "a_steps": steps,
        "b_steps": round(epochs * steps_per_epoch),
        "c_d_steps": round(percent * (total_steps / 100)),
        "rate": 0.5,
    }
    assert all(type(result[key]) is int for key in ("a_steps", "b_steps", "c_d_steps"))


def test_tuples_of_durations():
    spec = {"boundaries_epochs": (60, 120.5), "other_percent": [0, 100], "steps": 3, "_steps": "x"}
    assert resolve_durations(spec, 10, 500) == {
        "boundaries_steps": (600, 1205),
        "other_steps": (0, 500),
        "steps": 3,
        "_steps": "x",
    }


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"warmup_steps": 5, "warmup_epochs": 1}, "warmup_steps and warmup_epochs are the same"),
        ({"warmup_percent": 5, "warmup_epochs": 1}, "warmup_percent and warmup_epochs"),
        ({"warmup_epochs": -1}, "warmup_epochs is -1"),
        ({"warmup_epochs": "5"}, "warmup_epochs is '5'"),
        ({"warmup_epochs": True}, "warmup_epochs is True"),
        ({"boundaries_epochs": (1, math.nan)}, "boundaries_epochs is"),
    ],
)
def test_wrong_durations(spec, said):
    with pytest.raises(UserError, match=said):
        resolve_durations(spec, 10, 100)


# Imports.


@pytest.mark.parametrize("bad", [False, True])
def test_neither_jax_nor_tensorflow_is_imported(tmp_path, bad):
    path = write(tmp_path, "c.batch_size = 3" if not bad else "c.data = dict(nam=1)")
    code = (
        "import sys\n"
        "from flaxcifar import config, errors\n"
        "try:\n"
        "    config.load(sys.argv[1], ['--config.seed=1'])\n"
        "    print('fine')\n"
        "except errors.UserError as e:\n"
        "    print('bad')\n"
        "heavy = {'jax', 'jaxlib', 'flax', 'optax', 'orbax', 'tensorflow', 'keras'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    run = [sys.executable, "-c", code, str(path)]
    out = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split("\n")
    assert out[:2] == ["bad" if bad else "fine", "[]"]


def test_every_knob_is_documented():
    for key, knob in KNOBS.items():
        assert knob.doc.endswith("."), key


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("progressive_sizes", ((50, 20), (30, 24)), "rising from 0 to 100"),
        ("progressive_sizes", ((50, 20.5),), "pairs of a percent"),
        ("progressive_sizes", (50, 20), "pairs of a percent"),
        ("progressive_sizes", ((50, 0),), "pairs of a percent"),
        ("param_groups", (("head", {"learning_rate": 1.0}),), "of an optimizer"),
        ("param_groups", (("head", {"name": "sgd", "schedule": "linear"}),), "of an optimizer"),
        ("test_views", "five", "there are: none, mirror, mirror_shift"),
    ],
)
def test_the_knobs_of_the_fast_recipes_are_checked(key, value, message):
    config = default_config()
    config[key] = value
    with pytest.raises(UserError, match=message):
        check(config)


def test_only_one_average_is_kept():
    config = default_config()
    config.ema_decay, config.lookahead.every_steps = 0.9, 5
    with pytest.raises(UserError, match="set one of them to 0"):
        check(config)
    config.ema_decay = 0.0
    check(config)
