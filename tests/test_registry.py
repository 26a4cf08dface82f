"""Named parts: what a config may name, and what it is told where it is wrong."""

import sys

import pytest

from flaxcifar.errors import UserError, suggestion
from flaxcifar.registry import Registry

COLOURS = Registry("colour")


@COLOURS.register
def crimson(base, *, depth, gloss=0.5):
    return ("crimson", base, depth, gloss)


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
    assert COLOURS.names() == ("azure", "crimson")
    assert "azure" in COLOURS and "green" not in COLOURS


def test_keywords_are_the_keyword_only_ones():
    keywords = COLOURS.keywords("crimson")
    assert list(keywords) == ["depth", "gloss"] and keywords["gloss"].default == 0.5
    assert COLOURS.keywords("azure") == {}


def test_unknown_names():
    message = error(COLOURS.get, "crimsn")
    assert message == (
        "unknown colour 'crimsn'; did you mean 'crimson'? (there are: azure, crimson)"
    )
    assert error(COLOURS.get, "xyz") == "unknown colour 'xyz' (there are: azure, crimson)"
    assert "unknown colour" in error(COLOURS.call, {"name": "xyz"}, "b")
    assert "unknown colour" in error(COLOURS.keywords, "xyz")


def test_a_missing_name():
    assert error(COLOURS.call, {}, "b") == "a colour needs a name (there are: azure, crimson)"


def test_unknown_and_missing_keywords():
    message = error(COLOURS.call, {"name": "crimson", "depth": 1, "glos": 2}, "b")
    assert message == (
        "colour 'crimson' takes no 'glos'; did you mean 'gloss'? (it takes: depth, gloss)"
    )
    assert error(COLOURS.call, {"name": "crimson"}, "b") == "colour 'crimson' needs 'depth'"


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
