"""Reads and writes JSON files and files of JSON lines."""

import json
from pathlib import Path
from typing import Any

from flaxcifar.atomic import write_text
from flaxcifar.errors import UserError
from flaxcifar.rules import fits


def write_json(path: Path, value: Any) -> None:
    """Replaces a file by `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path, kind: Any = dict) -> dict[str, Any] | None:
    """Returns the object in a JSON file, None if the file does not exist.

    Args:
      kind: the type that it must have, as for `rules.fits`.

    Raises:
      UserError: the file is damaged.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:  # neither JSON nor UTF-8
        raise UserError(f"{path} is damaged ({error}); move it away to continue") from None
    if not fits(value, kind):
        raise UserError(
            f"{path} is damaged (something in it is missing or has a wrong type); "
            "move it away to continue"
        )
    return value


def read_rows(path: Path) -> list[dict[str, float]]:
    """Returns the rows of a file of JSON lines, up to the first that is damaged or incomplete.

    A row is an object of numbers, one of which is its `step`. A file that does not exist has none.
    """
    rows: list[dict[str, float]] = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            break
        numbers = isinstance(row, dict) and all(fits(value, float) for value in row.values())
        if not numbers or "step" not in row:
            break
        rows.append(row)
    return rows
