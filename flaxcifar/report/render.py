"""Renders the page templates of this folder, one self-contained HTML file a page."""

import base64
import io
import json
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from flaxcifar.console import clock_time, percent


def render(template: str, **values: Any) -> str:
    """Returns a page. Values are escaped, `data` among them is what report.js draws."""
    page = _pages.get_template(template).render(values)
    # The name of a folder or of a class need not be valid Unicode.
    return page.encode("utf-8", "replace").decode()


def png(pixels: np.ndarray) -> str:
    """Returns an image, uint8 [H, W, 3 or 4], as a data URI."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def setting(value: object) -> str:
    """Returns a config value as text: a string as it is, None as nothing, others as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


_pages = jinja2.Environment(
    loader=jinja2.PackageLoader("flaxcifar.report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_pages.filters |= {
    "clock_time": clock_time,
    "commas": "{:,}".format,
    "percent": percent,
    "png": png,
    "setting": setting,
}
# Of `tojson`, which also escapes "<": a class may be called </script>.
_pages.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
