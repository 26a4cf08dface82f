"""Configs survive JSON unchanged, and are locked."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxcifar.config import check, default_config, from_json, to_json

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


@settings(deadline=None, max_examples=50)
@given(specs, specs, st.lists(specs, max_size=3), st.floats(0, 50))
def test_json_restores_the_config(model, schedule, augment, percent):
    plain = to_json(default_config())
    plain |= {"model": model, "schedule": schedule, "augment": augment}
    plain["data"]["validation_percent"] = percent
    config = from_json(plain)
    back = from_json(json.loads(json.dumps(to_json(config))))
    assert back == config and to_json(back) == to_json(config)
    check(back)


def test_json_restores_tuples():
    plain = to_json(default_config()) | {"param_groups": (("head", 1.0),)}
    plain["model"] |= {"widths": (1, 2)}
    config = from_json(plain)
    back = from_json(json.loads(json.dumps(to_json(config))))
    assert back.param_groups == (("head", 1.0),) and back.model.widths == (1, 2)
    assert back == config


def test_only_named_parts_take_new_keys():
    for config in (default_config(), from_json(to_json(default_config()))):
        for section in (config, config.data, config.l2, config.early_stopping):
            with pytest.raises(AttributeError):
                section.new = 1
        for section in (config.model, config.optimizer, config.schedule):
            section.new = 1
