"""An HTML page as a tree of elements, to be searched by tag and attribute."""

import base64
import io
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser

import numpy as np
from PIL import Image

_VOID = {"br", "img", "meta", "link", "input", "hr"}


class Element:
    """An element: its tag, its attributes, and its children, elements or text."""

    def __init__(self, tag: str, attributes: dict[str, str | None]):
        self.tag, self.attributes, self.children = tag, attributes, []

    def all(self, tag: str = "", **attributes: str) -> Iterator["Element"]:
        """Yields the elements inside, in order, with this tag and these attributes."""
        for child in self.children:
            if isinstance(child, Element):
                found = child.attributes.items() >= attributes.items()
                if found and tag in ("", child.tag):
                    yield child
                yield from child.all(tag, **attributes)

    def one(self, tag: str = "", **attributes: str) -> "Element":
        """Returns the first of `all`."""
        return next(self.all(tag, **attributes))

    @property
    def text(self) -> str:
        """The text inside, white space collapsed as a browser does."""
        parts = [child if isinstance(child, str) else child.text for child in self.children]
        return " ".join("".join(parts).split())

    def rows(self) -> list[list[str]]:
        """Returns the texts of a table's cells, without its headings."""
        rows = [[cell.text for cell in row.all("td")] for row in self.all("tr")]
        return [row for row in rows if row]


class Page(Element):
    """The whole page."""

    def __init__(self, text: str):
        super().__init__("", {})
        _Builder(self).feed(text)

    def section(self, name: str) -> Element:
        return self.one("section", id=name)

    def data(self) -> dict:
        """Returns the embedded data; fails at what a browser's JSON.parse would not read."""

        def fail(word):
            raise ValueError(f"JSON has no {word}")

        return json.loads(self.one("script", id="data").text, parse_constant=fail)

    def film(self, name: str) -> np.ndarray:
        """Returns the image that the tiles of a gallery share."""
        styles = [style.text for style in self.section(name).all("style")]
        return pixels(re.search(rf"\.{name} \{{ background: url\((.*?)\)", styles[0]).group(1))


def pixels(address: str) -> np.ndarray:
    """Returns the image of a data URI."""
    head, content = address.split(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


class _Builder(HTMLParser):
    def __init__(self, root: Element):
        super().__init__()
        self.open = [root]

    def handle_starttag(self, tag, attributes):
        element = Element(tag, dict(attributes))
        self.open[-1].children.append(element)
        if tag not in _VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag, f"</{tag}> closes another element"

    def handle_data(self, text):
        self.open[-1].children.append(text)
