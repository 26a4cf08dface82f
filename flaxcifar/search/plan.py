"""Plans the runs of a sweep: every combination of values, each with several seeds."""

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flaxcifar.errors import UserError

_MAX_RUNS = 1000


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
      values: the swept values, as given on the command line, by dotted key.
      config: the checked config with these values and a seed.
    """

    values: Mapping[str, str]
    config: Any

    @property
    def setting(self) -> str:
        """The swept values in words; runs of one setting differ in their seed only."""
        return ", ".join(f"{key}={value}" for key, value in self.values.items())

    @property
    def name(self) -> str:
        """The name of the run's workdir."""
        parts = [*self.values.items(), ("seed", self.config.seed)]
        return re.sub(r"[^\w.=,+-]", "_", ",".join(f"{key}={value}" for key, value in parts))


def parse_axis(text: str) -> tuple[str, list[str]]:
    """Returns the key and the values of "key=a,b", split at commas outside brackets.

    Raises:
      UserError: the text has another form.
    """
    key, equals, values = text.partition("=")
    found = re.split(r",(?![^(\[{]*[)\]}])", values)
    if not equals or not all(key.split(".")) or not all(value.strip() for value in found):
        raise UserError(f"--sweep {text!r}: expected some.key=value,value")
    return key, [value.strip() for value in found]


def plan(
    load: Callable[[list[str]], Any], axes: Sequence[tuple[str, list[str]]], seeds: int
) -> list[Run]:
    """Returns the runs of all combinations of values, each with `seeds` consecutive seeds.

    Args:
      load: returns the checked config for overrides ("--config.key=value").
      axes: keys with their values.
      seeds: runs per combination; the first has the seed of the config.

    Raises:
      UserError: a config is invalid, a key is swept twice, there are too many runs, or there is
        no validation split to choose the best setting by.
    """
    keys = [key for key, _ in axes]
    if len(set(keys)) < len(keys) or ("seed" in keys and seeds > 1):
        raise UserError("--sweep and --seeds: each key can be swept once")
    count = seeds * math.prod(len(values) for _, values in axes)
    if count > _MAX_RUNS:
        raise UserError(
            f"--seeds and --sweep make {count:,} runs, of which each is planned before the first "
            f"is trained: give at most {_MAX_RUNS:,}"
        )
    runs = []
    for values in itertools.product(*(values for _, values in axes)):
        overrides = [f"--config.{key}={value}" for key, value in zip(keys, values, strict=True)]
        first = load(overrides).seed
        for seed in range(first, first + seeds):
            config = load([*overrides, f"--config.seed={seed}"])
            runs.append(Run(dict(zip(keys, values, strict=True)), config))
    if axes and not runs[0].config.data.validation_percent:
        raise UserError(
            "data.validation_percent is 0, but --sweep chooses the best setting by the validation "
            "split: set it above 0"
        )
    return runs
