"""Invalid configs are rejected in one line that starts with the key; valid ones pass."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from flaxcifar.config import check, default_config, to_json
from flaxcifar.config.knobs import KNOBS, NAMED
from flaxcifar.errors import UserError

DEFAULT = to_json(default_config())


def changed(changes, section=DEFAULT, prefix=""):
    """The default config as a dict, with `changes` as {"dotted.key": value}."""
    result = {}
    for key, value in section.items():
        name = prefix + key
        if name in changes:
            result[key] = changes[name]
        else:
            result[key] = changed(changes, value, f"{name}.") if isinstance(value, dict) else value
    return result


def error(config):
    with pytest.raises(UserError) as caught:
        check(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Values that the knob's rule, or the type within, forbids.
WRONG = {
    "seed": (-1, 2**31),
    "model": ({}, {"name": 3}),
    "optimizer": ({"learning_rate": 0.1}, {"name": "sgd", "learning_rate": math.nan}),
    "schedule": ({"name": "constant", "x": object()}, {"name": "x", "y": {1: 2}}),
    "proxy": ({}, {"name": None}),
    "precision": ("float16", ""),
    "data.name": ("",),
    "data.image_size": (0, 4097, 32.0),
    "data.validation_percent": (-1.0, 50.1, math.nan),
    "data.normalization": ("chanel", "none"),
    "data.pipeline": ("tfdata",),
    "data.memory_gb": (-1.0, math.nan),
    "augment": (
        {"name": "cutout"},
        ("cutout",),
        ({"size": 3},),
        ({"name": "x", "y": math.inf},),
    ),
    "progressive_sizes": (((50, 20), (30, 24)), ((50, 20.5),), (50, 20), ((50, 0),), ((101, 8),)),
    "batch_size": (0, -1, 1.0, 10**12),
    "selection.keep_percent": (0.0, 100.5),
    "selection.every_steps": (0, 10**18),
    "eval_batch_size": (0, 10**12),
    "total_epochs": (0, 1.5, 10**18),
    "total_steps": (-1, 10**18),
    "steps_per_dispatch": (-1,),
    "ops.convolution": ("cudnn",),
    "param_groups": (
        ("head", 1.0),
        (("head",),),
        (("(", 1.0),),
        (("x", -0.1),),
        (("x", math.inf),),
        (("x", "freeze"),),
        (("x", True),),
        ((3, 1.0),),
        (("head", {"learning_rate": 1.0}),),
        (("head", {"name": "sgd", "schedule": "linear"}),),
    ),
    "gradient_clip": (-0.1, math.inf),
    "accumulation_steps": (0, 10**18),
    "ema_decay": (-0.1, 1.0),
    "lookahead.every_steps": (-1, 10**18),
    "lookahead.decay": (-0.1, 1.1),
    "lookahead.power": (-1.0,),
    "label_smoothing": (-0.1, 1.0),
    "l2.coefficient": (-1.0,),
    "l2.pattern": ("(",),
    "early_stopping.patience": (-1,),
    "early_stopping.metric": ("los", "f1"),
    "early_stopping.mode": ("auto", "max"),
    "early_stopping.min_delta": (-1.0,),
    "early_stopping.restore_best": (1, None),
    "metrics": (({"k": 3},), ("top_k",)),
    "test_views": ("five",),
    "checkpoint.every_epochs": (-1,),
    "checkpoint.every_minutes": (-1.0,),
    "checkpoint.every_steps": (-1,),
    "on_nonfinite": ("ignore",),
}


@pytest.mark.parametrize("key", WRONG)
def test_a_wrong_value_is_rejected_by_a_message_that_starts_with_its_key(key):
    for value in WRONG[key]:
        assert error(changed({key: value})).startswith(key)


def test_every_restricted_knob_has_a_wrong_value():
    restricted = {key for key, knob in KNOBS.items() if knob.rule or key in NAMED}
    assert restricted <= WRONG.keys() <= KNOBS.keys()


def test_a_value_of_another_type_is_rejected_for_every_knob():
    for key, knob in KNOBS.items():
        for value in (None, object(), "text", 1, True, 1.5, (), {}):
            number = isinstance(knob.default, float) and type(value) in (int, float)
            if type(value) is not type(knob.default) and not number:
                message = error(changed({key: value}))
                assert message.startswith(f"{key} must be ") and f"got {value!r}" in message


def test_sections_and_named_parts_need_their_own_form():
    assert error(changed({"l2": 5e-4})) == "l2 must be a section of several keys, got 0.0005"
    assert error(changed({"model": "vgg16"})).endswith("got 'vgg16'; did you mean model.name?")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"seed": 2**31 - 1, "batch_size": 1, "total_epochs": 1, "total_steps": 0},
        {"data.validation_percent": 0, "ema_decay": 0.999, "label_smoothing": 0},
        {"data.validation_percent": 50.0, "precision": "bfloat16", "data.pipeline": "resident"},
        {"param_groups": [["stage1/.*", "frozen"], ["head", 0], [".*", 0.5]]},
        {"early_stopping.metric": "top5_accuracy", "early_stopping.mode": "max"},
        {"augment": [{"name": "cutout", "size": 8}], "data.normalization": "unit"},
        {"model": {"name": "x", "widths": [1, 2], "inner": {"a": None}}},
        {"lookahead.every_steps": 5, "progressive_sizes": [[50.5, 20], [100, 24]]},
    ],
)
def test_right_values_pass(changes):
    check(changed(changes))


def test_messages_say_what_is_valid_and_what_was_given():
    assert error(changed({"selection.keep_percent": 0})) == (
        "selection.keep_percent must be above 0 and at most 100, got 0"
    )
    assert error(changed({"eval_batch_size": 10**12})) == (
        "eval_batch_size must be between 1 and 131072 (whole batches are in memory), "
        "got 1000000000000"
    )
    assert error(changed({"total_steps": 10**18})) == (
        "total_steps must be between 0 and 2147483647 (steps are counted in int32) "
        "(0 = use total_epochs), got 1000000000000000000"
    )
    assert (
        error(changed({"gradient_clip": -1}))
        == "gradient_clip must be at least 0 (0 = off), got -1"
    )
    assert error(changed({"data.normalization": "chanel"})) == (
        "data.normalization must be one of channel, scalar, unit, got 'chanel'; "
        "did you mean 'channel'?"
    )
    assert error(changed({"augment": ({"name": "cutout"}, 3)})) == (
        "augment[1] must be dict(name=..., **kwargs), got 3"
    )


# Combinations.


@pytest.mark.parametrize("metric", ["loss", "accuracy", "top5_accuracy"])
def test_a_mode_that_keeps_the_worst_is_rejected(metric):
    good, bad = ("min", "max") if metric == "loss" else ("max", "min")
    check(changed({"early_stopping.metric": metric, "early_stopping.mode": good}))
    message = error(changed({"early_stopping.metric": metric, "early_stopping.mode": bad}))
    assert message.startswith(f"early_stopping.mode must be {good!r}")


@pytest.mark.parametrize(
    "watcher", [{"early_stopping.patience": 3}, {"schedule": {"name": "reduce_on_plateau"}}]
)
def test_watching_needs_a_validation_split(watcher):
    message = error(changed({"data.validation_percent": 0.0} | watcher))
    assert message.startswith("data.validation_percent must be above 0")


def test_only_one_average_is_kept():
    assert "set one of them to 0" in error(changed({"ema_decay": 0.9, "lookahead.every_steps": 5}))
    check(changed({"lookahead.every_steps": 5}))


# Keys.


def all_keys(section, prefix=()):
    for key, value in section.items():
        yield (*prefix, key)
        if isinstance(value, dict) and ".".join((*prefix, key)) not in NAMED:
            yield from all_keys(value, (*prefix, key))


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(sorted(all_keys(DEFAULT))), st.data())
def test_a_misspelt_key_is_always_an_error_that_names_it(path, data):
    *parents, key = path
    at = data.draw(st.integers(0, len(key) - 1))
    mutated = data.draw(
        st.sampled_from([key[:at] + key[at + 1 :], key[:at] + "x" + key[at:], key + "s"])
    )
    config = changed({})
    section = config
    for parent in parents:
        section = section[parent]
    if mutated in section:
        return
    section[mutated] = section.pop(key)
    message = error(config)
    assert message.startswith(f"{'.'.join((*parents, mutated))} is not a config key")
    assert repr(key) in message or "did you mean" in message


def test_a_missing_key_is_named():
    config = changed({})
    del config["data"]["dir"]
    assert error(config) == "data.dir is missing"


def test_check_takes_an_unlocked_configdict():
    assert error(ConfigDict(DEFAULT | {"extra": 1})).startswith("extra is not a config key (keys")


def test_every_knob_is_documented():
    assert all(knob.doc.endswith(".") for knob in KNOBS.values())
