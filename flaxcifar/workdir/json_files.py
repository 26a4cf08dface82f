"""Reads and writes JSON files and files of JSON lines."""

import json
from pathlib import Path
from typing import Any

from flaxcifar.atomic import write_text
from flaxcifar.errors import UserError


def write_json(path: Path, value: Any) -> None:
    """Replaces a file by `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any | None:
    """Returns the value of a JSON file, None if it does not exist."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged ({error}); move it away to continue") from None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a file of JSON lines, up to the first incomplete one.

    A file that does not exist has none.
    """
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
