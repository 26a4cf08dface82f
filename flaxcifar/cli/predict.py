"""Classifies images of any format and size that Pillow reads.

    flaxcifar predict --workdir runs/first cat.png photos/ --top 3

Unreadable images are reported and skipped.
"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flaxcifar import console
from flaxcifar.cli.command import Parser, check_folder
from flaxcifar.errors import RunError, UserError
from flaxcifar.inference.trained import Trained

_SHOWN = 20  # most predictions printed when --output has all of them
_DRAWN = 64  # most images in the picture of --draw

# {"image": path, "predictions": [{"class": name, "probability": p}, ...]}
Prediction = dict[str, Any]


def find(names: Sequence[str]) -> list[Path]:
    """Returns the named files, and everything in the named folders except hidden files.

    Raises:
      UserError: a name does not exist, or there are no files.
    """
    found: list[Path] = []
    for path in map(Path, names):
        if not path.exists():
            raise UserError(f"there is no image or folder {str(path)!r}")
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        found += [file for file in inside if not (file.is_dir() or file.name.startswith("."))]
    if not found:
        raise UserError(f"there are no files in {', '.join(map(str, names))}")
    return found


def best_classes(probabilities: np.ndarray, names: Sequence[str], top: int) -> list[dict]:
    """Returns the `top` most likely classes of one image, the most likely first."""
    order = np.argsort(-probabilities, kind="stable")[:top]
    return [{"class": names[n], "probability": float(probabilities[n])} for n in order]


def write(path: Path, predictions: Sequence[Prediction]) -> None:
    """Writes predictions as JSON if the name ends in .json, else as CSV, one row per image."""
    with path.open("w", newline="", encoding="utf-8") as file:
        if path.suffix == ".json":
            json.dump(list(predictions), file, indent=1)
            return
        table = csv.writer(file)
        count = len(predictions[0]["predictions"]) if predictions else 0
        heading = (f"{kind}_{n}" for n in range(1, count + 1) for kind in ("class", "probability"))
        table.writerow(["image", *heading])
        for row in predictions:
            cells = (value for found in row["predictions"] for value in found.values())
            table.writerow([row["image"], *cells])


def draw(path: Path, predictions: Sequence[Prediction]) -> None:
    """Draws the first images, unresized, with their most likely class."""
    from matplotlib.figure import Figure
    from PIL import Image, ImageOps

    shown = predictions[:_DRAWN]
    columns = min(8, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(1.8 * columns, 2.1 * rows), layout="constrained")
    axes = np.ravel(figure.subplots(rows, columns))
    for axis in axes:
        axis.set_axis_off()
    for axis, row in zip(axes, shown, strict=False):
        with Image.open(row["image"]) as image:
            axis.imshow(ImageOps.exif_transpose(image).convert("RGB"))
        best = row["predictions"][0]
        axis.set_title(f"{best['class']}\n{console.percent(best['probability'])}", fontsize=8)
    figure.savefig(path, dpi=150)


def parser() -> Parser:
    """Returns the flags."""
    result = Parser("predict", __doc__, "--workdir DIR IMAGE_OR_FOLDER... [FLAGS]")
    add = result.add_argument
    add("images", nargs="+", metavar="IMAGE_OR_FOLDER", help="folders include all files in them")
    add("--workdir", required=True, metavar="DIR", help="the workdir of a run")
    add("--top", type=int, default=5, metavar="N", help="classes per image; default 5")
    add("--output", type=Path, metavar="FILE", help="write all predictions as .csv or .json")
    add("--draw", type=Path, metavar="FILE", help="draw the first images with their class")
    add("--strict", action="store_true", help="fail if the newest checkpoint is damaged")
    return result


def main(argv: list[str]) -> None:
    """Prints the predictions and writes the files.

    Raises:
      RunError: some images could not be read; the others were classified.
    """
    flags = parser().parse_args(argv)
    if flags.top < 1:
        raise UserError(f"--top must be at least 1, got {flags.top}")
    if flags.output and flags.output.suffix not in (".csv", ".json"):
        raise UserError(f"--output {flags.output} must end in .csv or .json")
    if flags.draw and flags.draw.suffix not in (".png", ".jpg"):
        raise UserError(f"--draw {flags.draw} must end in .png or .jpg")
    check_folder("--output", flags.output)
    check_folder("--draw", flags.draw)
    paths = find(flags.images)
    trained = Trained.from_workdir(flags.workdir, strict=flags.strict)
    predictions: list[Prediction] = []
    unread = 0
    for path, found in trained.predict_files(paths):
        if isinstance(found, UserError):
            console.say(str(found))
            unread += 1
            continue
        best = best_classes(found, trained.class_names, flags.top)
        predictions.append({"image": str(path), "predictions": best})
        if len(predictions) <= _SHOWN or not flags.output:
            words = (f"{p['class']} {console.percent(p['probability'])}" for p in best)
            console.say(f"{path}: {', '.join(words)}")
    if flags.output:
        write(flags.output, predictions)
        console.say(f"{len(predictions):,} predictions: {flags.output}")
    if flags.draw and predictions:
        draw(flags.draw, predictions)
        console.say(f"picture: {flags.draw}")
    if unread:
        raise RunError(f"{unread} of {len(paths)} images could not be read and were skipped")
