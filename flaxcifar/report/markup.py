"""Pieces of HTML. Whatever text they are given is escaped."""

import base64
import io
import json
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from flaxcifar.console import percent

_SHORT = 32  # letters of code that stand in one line


class Measure(NamedTuple):
    """A cell that is sorted by its value and stands to the right."""

    text: str
    value: float


class Code(str):
    """A cell in a fixed-width font, empty for None."""

    def __new__(cls, value: object) -> "Code":
        if value is None:
            value = ""
        return super().__new__(cls, value if isinstance(value, str) else json.dumps(value))


class Share(float):
    """A percentage with a bar."""


def slug(title: str) -> str:
    """Returns a title as the name of a place in the page."""
    return re.sub(r"\W+", "-", title.lower())


def section(title: str, content: str) -> str:
    """Returns a part of the page; `content` is HTML."""
    heading = f"<h2>{escape(title)}</h2>"
    return f'<section id="{slug(title)}">\n{heading}\n{content}\n</section>'


def figures(pairs: Iterable[tuple[str, Measure]]) -> str:
    """Returns large figures with their names."""
    boxes = (f"<div><dt>{escape(name)}</dt><dd>{escape(m.text)}</dd></div>" for name, m in pairs)
    return f'<dl class="figures">{"".join(boxes)}</dl>'


def folded(title: str, content: str) -> str:
    """Returns HTML that is seen after a click on its title, and in print."""
    return f"<details><summary>{escape(title)}</summary>\n{content}\n</details>"


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    sortable: bool = False,
    marked: Iterable[int] = (),
) -> str:
    """Returns a table.

    Args:
      rows: cells: text, whole numbers, or one of the classes above.
      sortable: whether a click on a heading sorts the rows.
      marked: the numbers of rows that stand out.
    """
    marked = set(marked)

    def heading(text: str) -> str:
        words = escape(text)
        button = f'<button type="button">{words}</button>' if sortable and text else words
        return f'<th scope="col">{button}</th>'

    def row(number: int, cells: Sequence[Any]) -> str:
        kind = ' class="changed"' if number in marked else ""
        return f"<tr{kind}>{''.join(map(_cell, cells))}</tr>"

    body = "\n".join(row(number, cells) for number, cells in enumerate(rows))
    head = f"<thead><tr>{''.join(map(heading, headings))}</tr></thead>" if any(headings) else ""
    kind = ' class="sortable"' if sortable else ""
    return f'<div class="scroll"><table{kind}>{head}<tbody>{body}</tbody></table></div>'


def _cell(value: Any) -> str:
    if isinstance(value, Share):
        bar = f'<span class="bar"><span style="width: {100 * value:.2f}%"></span></span>'
        words = f"<span>{percent(value)}</span>"
        return f'<td class="share" data-value="{value:.6f}">{words}{bar}</td>'
    if isinstance(value, int):
        value = Measure(f"{value:,}", value)
    if isinstance(value, Measure):
        return f'<td class="number" data-value="{value.value}">{escape(value.text)}</td>'
    words = escape(str(value))
    if isinstance(value, Code):
        kind = ' class="short"' if len(value) <= _SHORT else ""
        words = f"<code{kind}>{words}</code>"
    return f"<td>{words}</td>"


def png(pixels: np.ndarray) -> str:
    """Returns a picture, uint8 [H, W, 3 or 4], as the address of an image that holds it."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def picture(pixels: np.ndarray, words: str) -> str:
    """Returns a picture, uint8 [H, W, 3 or 4], with its description."""
    return f'<img class="pixels" src="{png(pixels)}" alt="{escape(words)}">'
