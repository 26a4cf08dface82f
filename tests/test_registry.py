"""Named parts: what a config may name, and what it is told where it is wrong."""

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from jax.typing import ArrayLike

from flaxcifar.errors import UserError, suggestion
from flaxcifar.registry import Registry
from flaxcifar.rules import NOT_EMPTY, between

COLOURS = Registry("colour")


@COLOURS.register
def crimson(base, *, depth, gloss=0.5):
    return ("crimson", base, depth, gloss)


@COLOURS.register
def teal(
    *,
    shades: Annotated[Sequence[Annotated[int, between(1, 9)]], NOT_EMPTY] = (1,),
    mode: Literal["flat", "deep"] = "flat",
    glow: ArrayLike | None = None,
    wet: bool = False,
    mask: Callable | None = None,
    of: "tuple[float, float]" = (0.0, 1.0),
    other: Any = None,
):
    return "teal"


@COLOURS.register
def azure(base, other=1, *args):
    return ("azure", base, other, args)


def error(function, *args):
    with pytest.raises(UserError) as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_spec_calls_the_function_it_names():
    assert COLOURS.call({"name": "crimson", "depth": 3}, "b") == ("crimson", "b", 3, 0.5)
    assert COLOURS.call({"name": "crimson", "depth": 3, "gloss": 1}, "b")[-1] == 1
    assert COLOURS.call({"name": "azure"}, "b", 2, 3) == ("azure", "b", 2, (3,))


def test_a_spec_is_left_as_it_was():
    spec = {"name": "crimson", "depth": 3}
    COLOURS.call(spec, "b")
    assert spec == {"name": "crimson", "depth": 3}


def test_registering_returns_the_function_itself():
    assert crimson("b", depth=1) == ("crimson", "b", 1, 0.5)
    assert COLOURS.get("crimson") is crimson


def test_names_are_sorted():
    assert COLOURS.names() == ("azure", "crimson", "teal")
    assert "azure" in COLOURS and "green" not in COLOURS


def test_keywords_are_the_keyword_only_ones():
    keywords = COLOURS.keywords("crimson")
    assert list(keywords) == ["depth", "gloss"] and keywords["gloss"].default == 0.5
    assert COLOURS.keywords("azure") == {}


def test_unknown_names():
    message = error(COLOURS.get, "crimsn")
    assert message == (
        "unknown colour 'crimsn'; did you mean 'crimson'? (there are: azure, crimson, teal)"
    )
    assert error(COLOURS.get, "xyz") == "unknown colour 'xyz' (there are: azure, crimson, teal)"
    assert "unknown colour" in error(COLOURS.call, {"name": "xyz"}, "b")
    assert "unknown colour" in error(COLOURS.keywords, "xyz")


def test_a_missing_name():
    assert error(COLOURS.call, {}, "b") == "a colour needs a name (there are: azure, crimson, teal)"


def test_unknown_and_missing_keywords():
    message = error(COLOURS.call, {"name": "crimson", "depth": 1, "glos": 2}, "b")
    assert message == (
        "colour 'crimson' takes no 'glos'; did you mean 'gloss'? (it takes: depth, gloss)"
    )
    assert error(COLOURS.call, {"name": "crimson"}, "b") == "colour 'crimson' needs 'depth'"


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"wet": 1}, "wet must be true or false, got 1"),
        ({"mode": "dep"}, "mode must be one of flat, deep, got 'dep'"),
        ({"glow": "two"}, "glow must be a number or None, got 'two'"),
        ({"glow": True}, "glow must be a number or None, got True"),
        ({"glow": (1,)}, "glow must be a number or None, got (1,)"),
        ({"mask": "x"}, "mask must be None, got 'x'"),
        ({"of": 1.5}, "of must be a tuple or list of (a number, a number), got 1.5"),
        ({"of": (1, "x")}, "got (1, 'x')"),
        ({"of": (1,)}, "got (1,)"),
        ({"shades": 3}, "shades must be a tuple or list of (an integer between 1 and 9) with at"),
        ({"shades": ()}, "with at least one item, got ()"),
        ({"shades": "12"}, "got '12'"),
        ({"shades": (1, 10)}, "got (1, 10)"),
        ({"shades": (1, 2.0)}, "got (1, 2.0)"),
    ],
)
def test_keywords_are_checked_against_their_annotations(keywords, message):
    found = error(COLOURS.call, {"name": "teal"} | keywords)
    assert found.startswith("colour 'teal': ") and message in found


@pytest.mark.parametrize(
    "keywords",
    [
        {"shades": (1, 9)},
        {"shades": [2]},
        {"mode": "deep"},
        {"glow": 1},
        {"glow": 0.5},
        {"glow": None},
        {"glow": np.float32(2)},
        {"wet": True},
        {"mask": print},
        {"mask": None},
        {"of": (1, 2.5)},
        {"other": object()},
    ],
)
def test_keywords_that_fit_their_annotations_pass(keywords):
    assert COLOURS.call({"name": "teal"} | keywords) == "teal"


def test_a_config_cannot_set_what_is_ours():
    assert "takes no 'base'" in error(COLOURS.call, {"name": "crimson", "depth": 1, "base": 2}, "b")
    message = error(COLOURS.call, {"name": "azure", "other": 1}, "b")
    assert message == "colour 'azure' takes no 'other' (it takes: nothing)"


def test_a_file_in_the_package_registers_without_another_edit(tmp_path, monkeypatch):
    package = tmp_path / "shapes_for_test"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from flaxcifar.registry import Registry\nSHAPES = Registry('shape', __name__)\n"
    )
    (package / "round.py").write_text(
        "from shapes_for_test import SHAPES\n@SHAPES.register\ndef disc(*, radius=1):\n"
        "    return radius\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import shapes_for_test

    try:
        assert shapes_for_test.SHAPES.names() == ("disc",)
        assert shapes_for_test.SHAPES.call({"name": "disc", "radius": 4}) == 4
    finally:
        for name in ("shapes_for_test", "shapes_for_test.round"):
            sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("word", "expected"), [("alpa", "; did you mean 'alpha'?"), ("zzz", ""), ("", "")]
)
def test_suggestion(word, expected):
    assert suggestion(word, ["alpha", "beta"]) == expected
    assert suggestion(word, []) == ""
