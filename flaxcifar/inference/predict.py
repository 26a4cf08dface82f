"""Classifies images of any format and size that Pillow reads.

    python -m flaxcifar predict --workdir runs/first cat.png photos/ --top 3

Images that cannot be read are named, and the rest go on.
"""

import csv
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxcifar import config, console
from flaxcifar.cli.command import Parser, check_folder, run_command
from flaxcifar.data.images import resize_images, try_images
from flaxcifar.data.normalization import Normalization, normalize
from flaxcifar.errors import RunError, UserError
from flaxcifar.models.network import Network
from flaxcifar.training.networks import make_network
from flaxcifar.workdir.checkpoints import read_best

_SHOWN = 20  # predictions on the screen where there is a file for all of them
_DRAWN = 64

# {"image": path, "predictions": [{"class": name, "probability": p}, ...]}
Prediction = dict[str, Any]


class Predictor:
    """A trained model with the preprocessing that belongs to it.

    Attributes:
      class_names: by label.
      image_size: height and width that images are resized to.
      network, normalization, variables: what `compute_logits` takes beside the images.
      precision: "float32" or "bfloat16".
    """

    def __init__(
        self,
        settings: Any,
        variables: tuple[dict[str, jax.Array], dict[str, jax.Array]],
        normalization: Normalization,
        class_names: Sequence[str],
    ):
        self.class_names, self.image_size = tuple(class_names), settings.data.image_size
        self.network, _ = make_network(settings, len(class_names))
        self.normalization, self.variables = normalization, variables
        self.precision = settings.precision
        self._settings, self._batch_size = settings, settings.eval_batch_size
        compiled = _compiled(self.network)
        self._run = functools.partial(compiled, normalization.arrays(), variables)

    @classmethod
    def from_workdir(cls, workdir: str) -> "Predictor":
        """Returns the best checkpoint of a run; needs nothing else of it, the dataset neither.

        Raises UserError where `workdir` is no run's or has no checkpoint.
        """
        best, record = read_best(workdir)
        settings = config.from_json(record["config"])
        arrays = {kind: {k: jnp.asarray(v) for k, v in best[kind].items()} for kind in best}
        variables = (arrays["params"], arrays["batch_stats"])
        normalization = Normalization.from_json(record["normalization"])
        return cls(settings, variables, normalization, record["class_names"])

    def in_float32(self) -> "Predictor":
        """Returns the same model computing in float32, whatever it was trained in."""
        settings = config.from_json(config.to_json(self._settings) | {"precision": "float32"})
        return Predictor(settings, self.variables, self.normalization, self.class_names)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Returns the probabilities, float32 [N, classes], of images uint8 [N, H, W, 3].

        They are resized where their size is another.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise UserError(f"images are {images.dtype} {images.shape}, not uint8 [N, H, W, 3]")
        images = resize_images(images, self.image_size)
        found = []
        with console.working("predicting", len(images)) as advance:
            for start in self._starts(len(images)):
                found.append(self._batch(images[start : start + self._batch_size]))
                advance(len(found[-1]))
        return np.concatenate(found) if found else np.zeros((0, len(self.class_names)), np.float32)

    def files(self, paths: Sequence[Path]) -> Iterator[tuple[Path, np.ndarray | UserError]]:
        """Yields (path, probabilities) in order; for an image that cannot be read, its error.

        The next batch is read while one is computed.
        """
        batches = [paths[n : n + self._batch_size] for n in self._starts(len(paths))]
        with ThreadPoolExecutor(1) as reader:
            coming = [reader.submit(try_images, batch, self.image_size) for batch in batches[:1]]
            for number, batch in enumerate(batches):
                images = coming.pop().result()
                for following in batches[number + 1 : number + 2]:
                    coming.append(reader.submit(try_images, following, self.image_size))
                good = [image for image in images if isinstance(image, np.ndarray)]
                found = iter(self(np.stack(good)) if good else ())
                for path, image in zip(batch, images, strict=True):
                    yield path, image if isinstance(image, UserError) else next(found)

    def _starts(self, count: int) -> range:
        return range(0, count, self._batch_size)

    def _batch(self, images: np.ndarray) -> np.ndarray:
        # One shape, one compiled program: a smaller batch is filled up.
        filled = np.zeros((self._batch_size, *images.shape[1:]), np.uint8)
        filled[: len(images)] = images
        return np.asarray(self._run(filled))[: len(images)]


def compute_logits(
    network: Network, normalization: Any, variables: Any, images: jax.Array
) -> jax.Array:
    """Returns float32 logits [N, classes] of images uint8 [N, H, W, 3] of the model's size.

    normalization: what is subtracted from images and what divides them.
    """
    images = normalize(images, *normalization)
    return network.apply(*variables, images, None, train=False)[0]


@functools.lru_cache(maxsize=8)
def _compiled(network: Network) -> Callable[..., jax.Array]:
    """Cached, so that several runs of one model compile their predictions once."""
    return jax.jit(lambda *args: jax.nn.softmax(compute_logits(network, *args)))


def find(names: Iterable[str]) -> list[Path]:
    """Returns the files that are named and those in folders that are, hidden ones left out.

    Raises UserError for a name that does not exist.
    """
    found: list[Path] = []
    for path in map(Path, names):
        if not path.exists():
            raise UserError(f"there is no image or folder {str(path)!r}")
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        found += [file for file in inside if file.is_file() and not file.name.startswith(".")]
    if not found:
        raise UserError("the folders have no files in them")
    return found


def best_classes(probabilities: np.ndarray, names: Sequence[str], top: int) -> list[dict]:
    """Returns the `top` most likely classes of one image, the likeliest first."""
    order = np.argsort(-probabilities, kind="stable")[:top]
    return [{"class": names[n], "probability": float(probabilities[n])} for n in order]


def write(path: Path, predictions: Sequence[Prediction]) -> None:
    """Writes all predictions as JSON or, a row each, as CSV, by the name's ending."""
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
    """Draws the first images, as they are, with their likeliest class."""
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
    add("images", nargs="+", metavar="IMAGE_OR_FOLDER", help="folders with all that is in them")
    add("--workdir", required=True, metavar="DIR", help="the directory of a run")
    add("--top", type=int, default=5, metavar="N", help="classes of each image; default 5")
    add("--output", type=Path, metavar="FILE", help="all predictions, as .csv or .json")
    add("--draw", type=Path, metavar="FILE", help="a picture of the first images with their class")
    return result


def main(argv: list[str]) -> None:
    """Prints, and writes where asked, the predictions."""
    flags = parser().parse_args(argv)
    if flags.top < 1:
        raise UserError(f"--top is {flags.top}; it must be at least 1")
    if flags.output and flags.output.suffix not in (".csv", ".json"):
        raise UserError(f"--output {flags.output} must end in .csv or .json")
    if flags.draw and flags.draw.suffix not in (".png", ".jpg"):
        raise UserError(f"--draw {flags.draw} must end in .png or .jpg")
    check_folder("--output", flags.output)
    check_folder("--draw", flags.draw)
    paths = find(flags.images)
    predictor = Predictor.from_workdir(flags.workdir)
    predictions: list[Prediction] = []
    unread = 0
    for path, found in predictor.files(paths):
        if isinstance(found, UserError):
            console.say(str(found))
            unread += 1
            continue
        best = best_classes(found, predictor.class_names, flags.top)
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
        raise RunError(f"{unread} of {len(paths)} images could not be read; the rest are done")


if __name__ == "__main__":
    run_command(main)
