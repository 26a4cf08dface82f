"""Types and bounds of config values, and their descriptions in messages.

A knob has the type of its default and a `Rule`. The keyword of a registered function has its
annotation, such as `Annotated[float, between(0, 1)] | None`.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Annotated, Any, Literal


@dataclasses.dataclass(frozen=True)
class Rule:
    """Restricts values beyond their type.

    Attributes:
      holds: returns whether a value is valid.
      words: completes the message "KEY must be ...".
      choices: the valid values, if they are a few strings.
      each: apply the rule to every item of a tuple instead of the tuple.
    """

    holds: Callable[[Any], bool]
    words: str
    choices: tuple[str, ...] = ()
    each: bool = False


def one_of(*choices: str) -> Rule:
    """Requires one of these strings."""
    return Rule(lambda v: v in choices, f"one of {', '.join(choices)}", choices)


def at_least(least: float, zero: str = "") -> Rule:
    """Requires `v >= least`. `zero` describes what 0 means."""
    return Rule(lambda v: v >= least, f"at least {least}{_zero(zero)}")


def between(least: float, most: float, zero: str = "", reason: str = "") -> Rule:
    """Requires `least <= v <= most`. `zero` describes what 0 means, `reason` the upper bound."""
    why = f" ({reason})" if reason else ""
    return Rule(lambda v: least <= v <= most, f"between {least} and {most}{why}{_zero(zero)}")


def above(least: float, most: float = math.inf) -> Rule:
    """Requires `least < v <= most`."""
    end = f" and at most {most}" if most < math.inf else ""
    return Rule(lambda v: least < v <= most, f"above {least}{end}")


def _zero(meaning: str) -> str:
    return f" (0 = {meaning})" if meaning else ""


FRACTION = Rule(lambda v: 0 <= v < 1, "at least 0 (0 = off) and below 1")
NOT_EMPTY = Rule(lambda v: len(v) > 0, "with at least one item")

Share = Annotated[float, between(0, 1)]

# Steps and seeds are int32.
MAX_STEPS = MAX_SEED = 2**31 - 1

_WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}
_WORDS |= {dict: "a section of several keys", types.NoneType: "None"}


def fits(value: Any, hint: Any) -> bool:
    """Returns whether `value` has the type `hint` and obeys the rules in it.

    An integer is a valid float, a list a valid tuple. True and False are not numbers. A type that
    Python cannot check, such as a protocol, is not checked.
    """
    kind = typing.get_origin(hint) or hint
    if kind is Annotated:
        return fits(value, hint.__origin__) and all(rule.holds(value) for rule in _rules(hint))
    if kind in (typing.Union, types.UnionType):
        return any(fits(value, member) for member in _members(hint))
    if kind is Literal:
        return value in typing.get_args(hint)
    if kind in (int, float):
        return isinstance(value, Real if kind is float else int) and not isinstance(value, bool)
    if kind in (tuple, list, Sequence):
        if not isinstance(value, tuple | list):
            return False
        items = typing.get_args(hint)
        if kind is not tuple or ... in items:
            items = items[:1] * len(value)
        return not items or len(items) == len(value) and all(map(fits, value, items))
    if typing.is_typeddict(kind):
        fields = typing.get_type_hints(kind)
        return (
            isinstance(value, dict)
            and kind.__required_keys__ <= value.keys()
            and all(fits(value[key], fields[key]) for key in fields.keys() & value.keys())
        )
    try:
        return isinstance(value, kind)
    except TypeError:
        return True


def describe(hint: Any) -> str:
    """Returns the valid values of a type in words, as far as a config can express them."""
    kind = typing.get_origin(hint) or hint
    if kind is Annotated:
        return " ".join([describe(hint.__origin__), *(rule.words for rule in _rules(hint))])
    if kind in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(filter(None, map(describe, _members(hint)))))
    if kind is Literal:
        return f"one of {', '.join(map(str, typing.get_args(hint)))}"
    if kind in (tuple, list, Sequence):
        items = ", ".join(describe(item) for item in typing.get_args(hint) if item is not ...)
        return f"a tuple or list of ({items})" if items else "a tuple or list"
    return _WORDS.get(kind, "")


def _rules(annotated: Any) -> list[Rule]:
    return [rule for rule in annotated.__metadata__ if isinstance(rule, Rule)]


def _members(union: Any) -> list[Any]:
    """Returns the members of a union. `ArrayLike`, which has bool and complex, is a number here."""
    members = typing.get_args(union)
    return [m for m in members if float not in members or m not in (bool, int, complex)]
