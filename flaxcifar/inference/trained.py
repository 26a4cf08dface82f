"""Trained models: loading and prediction."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from PIL import Image

from flaxcifar import config, console, data
from flaxcifar.components import restore
from flaxcifar.data.arrays import as_images, as_labels
from flaxcifar.data.dataset import Dataset, Split, check_labels
from flaxcifar.data.images import resize_images, to_pixels, try_images
from flaxcifar.data.normalization import Normalization, normalize
from flaxcifar.errors import UserError
from flaxcifar.models.network import Arrays, Network
from flaxcifar.models.summary import Row, model_summary, summary_table
from flaxcifar.optim.param_groups import frozen_paths, group_words, make_groups
from flaxcifar.training.evaluation import make_evaluate
from flaxcifar.training.metrics import own_metrics
from flaxcifar.training.networks import make_network
from flaxcifar.workdir.checkpoints import read_best

Variables = tuple[Arrays, Arrays]
# One or several images: an array, a path, a Pillow image, or a list of these.
Images = ArrayLike | str | os.PathLike | Image.Image | Sequence[Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A trained model with its preprocessing and class names.

    Example:
      model = flaxcifar.load("runs/first")
      names = [model.class_names[label] for label in model.predict(["cat.png", "dog.png"])]

    Attributes:
      config: the config of the run.
      network: the model as pure functions.
      variables: parameters and batch statistics.
      normalization: applied to images before the network.
      class_names: by label.
      step: the training step of the checkpoint.
      fingerprint: identifies the dataset; None if unknown, as for imported weights.
    """

    config: Any
    network: Network
    variables: Variables
    normalization: Normalization
    class_names: tuple[str, ...]
    step: int = 0
    fingerprint: str | None = None

    @classmethod
    def from_workdir(cls, workdir: str | os.PathLike, *, strict: bool = False) -> "Trained":
        """Loads the best checkpoint of a run. The dataset need not be present.

        Args:
          strict: refuse to load an older checkpoint if the newest is damaged.

        Raises:
          UserError: if `workdir` has no checkpoint.
        """
        best, record = read_best(workdir, strict=strict)
        restore(record.get("components", ()), Path(workdir))
        settings = config.from_json(record["config"])
        # `jnp.asarray` would compile a program for every shape.
        variables = jax.device_put((best["params"], best["batch_stats"]))
        return cls(
            config=settings,
            network=make_network(settings, len(record["class_names"]))[0],
            variables=variables,
            normalization=Normalization.from_json(record["normalization"]),
            class_names=tuple(record["class_names"]),
            step=record["history"][-1]["step"],
            fingerprint=record["fingerprint"],
        )

    @property
    def image_size(self) -> int:
        """Height and width of the network's images."""
        return self.config.data.image_size

    def in_float32(self) -> "Trained":
        """Returns the same model computing in float32, whatever its precision."""
        settings = config.from_json(config.to_json(self.config) | {"precision": "float32"})
        network, _ = make_network(settings, len(self.class_names))
        return dataclasses.replace(self, config=settings, network=network)

    def load_dataset(self) -> Dataset:
        """Loads the dataset the model was trained on.

        Raises:
          UserError: if the dataset is missing or has changed.
        """
        dataset = data.load(self.config.data)
        expected = (self.fingerprint or dataset.fingerprint, len(self.class_names))
        if expected != (dataset.fingerprint, len(dataset.class_names)):
            raise UserError(
                f"dataset {dataset.name!r} is not the one the model was trained on: its images, "
                "labels or classes differ. Restore the original data."
            )
        return dataset

    @property
    def module(self) -> nnx.Module:
        """A new Flax NNX module with the trained arrays, in evaluation mode.

        It maps normalized images, as `normalization` returns them, to logits.
        """
        model = self.network.module(*self.variables)
        model.eval()
        return model

    def predict(self, images: Images) -> np.ndarray:
        """Returns the most likely class of each image, int64 [N]; see `predict_proba`.

        `class_names` has the names.
        """
        return np.argmax(self.predict_proba(images), axis=1)

    def predict_proba(self, images: Images) -> np.ndarray:
        """Computes class probabilities, float32 [N, classes].

        Args:
          images: an array [N, H, W, 3] or grey [N, H, W], of the dtypes and ranges of
            `data.arrays.as_images`; a path or a Pillow image; or a list of them. All are resized
            to `image_size`.

        Raises:
          UserError: the array has another shape or range, or a file cannot be read.
        """
        shape = (0, len(self.class_names))
        return self._apply(_probabilities(self.network), images, shape, "predicting")

    def features(self, images: Images) -> np.ndarray:
        """Computes what the last layer, `head`, gets: float32 [N, features].

        Takes images as `predict_proba`.

        Raises:
          UserError: the model has no layer `head`, or as for `predict_proba`.
        """
        compiled = _features(self.network)
        blank = jax.ShapeDtypeStruct((1, self.image_size, self.image_size, 3), np.uint8)
        one = jax.eval_shape(compiled, self.normalization.arrays(), self.variables, blank)
        return self._apply(compiled, images, (0, *one.shape[1:]), "computing features")

    def _apply(
        self, compiled: Callable[..., jax.Array], images: Images, empty: tuple[int, ...], title: str
    ) -> np.ndarray:
        """Applies a compiled function of (normalization, variables, images) batch by batch."""
        pixels, size = self._pixels(images), self.config.eval_batch_size
        found = [np.zeros(empty, np.float32)]
        with console.working(title, len(pixels)) as advance:
            for start in range(0, len(pixels), size):
                batch = pixels[start : start + size]
                # The last batch is padded, so that one compiled program serves all.
                padded = np.zeros((size, *batch.shape[1:]), np.uint8)
                padded[: len(batch)] = batch
                result = compiled(self.normalization.arrays(), self.variables, padded)
                found.append(np.asarray(result)[: len(batch)])
                advance(len(batch))
        return np.concatenate(found)

    def _pixels(self, images: Images) -> np.ndarray:
        """Returns images of any kind as uint8 [N, S, S, 3], S the model's image size."""
        if isinstance(images, str | os.PathLike | Image.Image):
            images = [images]
        if not isinstance(images, list | tuple):
            return resize_images(as_images(images), self.image_size)
        paths = [Path(image) for image in images if isinstance(image, str | os.PathLike)]
        read = iter(try_images(paths, self.image_size))
        pixels = [np.zeros((0, self.image_size, self.image_size, 3), np.uint8)]
        for image in images:
            found: np.ndarray | UserError
            if isinstance(image, Image.Image):
                found = to_pixels(image, self.image_size)
            elif isinstance(image, str | os.PathLike):
                found = next(read)
            else:
                found = resize_images(as_images(np.asarray(image)[None]), self.image_size)[0]
            if isinstance(found, UserError):
                raise found
            pixels.append(found[None])
        return np.concatenate(pixels)

    def evaluate(self, images: Images, labels: ArrayLike) -> dict[str, float]:
        """Computes loss, accuracy, top-5 accuracy and `config.metrics` on images of your own.

        Args:
          images: as for `predict_proba`.
          labels: integers [N], indices of `class_names`.

        Raises:
          UserError: they do not fit together, or as for `predict_proba`.
        """
        pixels = self._pixels(images)
        labels = as_labels(labels, len(pixels))
        check_labels(labels, len(self.class_names), "evaluate", "example")
        run = make_evaluate(
            self.network,
            self.normalization,
            None,
            self.config.eval_batch_size,
            own_metrics(config.plain(self.config.metrics)),
        )
        found = run(*self.variables, Split(pixels, labels), np.arange(len(labels)))
        return found.metrics["single"]

    def summary(self) -> None:
        """Prints a table of the layers: shapes, parameters and operations."""
        console.show(summary_table(*self.layers()))

    def layers(self) -> tuple[list[Row], dict[str, int]]:
        """Returns the layers and totals that the run printed; see `models.summary`."""
        entries = config.plain(self.config.param_groups)
        groups = make_groups(self.variables[0], entries, {}, lambda schedule: None)
        shape = (self.image_size, self.image_size, 3)
        return model_summary(self.network, shape, frozen_paths(groups), group_words(groups))

    def export(self, folder: str | os.PathLike, formats: Sequence[str] = ()) -> dict[str, Path]:
        """Writes the model for use without flaxcifar; returns the files by format.

        Args:
          folder: created if missing.
          formats: of "safetensors", "stablehlo" and "onnx"; by default all.

        Raises:
          UserError: a format is unknown, or the package that it needs is not installed.
          RunError: the logits of a file differ from the model's.
        """
        from flaxcifar.inference.export import export_files

        return {name: path for name, path, _ in export_files(self, Path(folder), formats)}

    def predict_files(self, paths: Sequence[Path]) -> Iterator[tuple[Path, np.ndarray | UserError]]:
        """Yields (path, probabilities) in order, or (path, error) for an unreadable image.

        Reads the next batch while the current one is computed.
        """
        size = self.config.eval_batch_size
        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(try_images, paths[:size], self.image_size)
            for start in range(0, len(paths), size):
                images, end = ahead.result(), start + size
                ahead = reader.submit(try_images, paths[end : end + size], self.image_size)
                readable = [image for image in images if isinstance(image, np.ndarray)]
                found = iter(self.predict_proba(readable))
                for path, image in zip(paths[start:end], images, strict=True):
                    yield path, image if isinstance(image, UserError) else next(found)


def compute_logits(
    network: Network, normalization: Any, variables: Variables, images: jax.Array
) -> jax.Array:
    """Returns float32 logits [N, classes] of uint8 images [N, S, S, 3], S the model's image size.

    normalization: the mean and divisor of `Normalization.arrays`.
    """
    images = normalize(images, *normalization)
    return network.apply(*variables, images, None, train=False)[0]


@functools.lru_cache(maxsize=8)
def _probabilities(network: Network) -> Callable[..., jax.Array]:
    """Returns the compiled prediction, cached so that runs of one model share the program."""
    return jax.jit(lambda *args: jax.nn.softmax(compute_logits(network, *args)))


@functools.lru_cache(maxsize=8)
def _features(network: Network) -> Callable[..., jax.Array]:
    def features(normalization: Any, variables: Variables, images: jax.Array) -> jax.Array:
        return network.features(*variables, normalize(images, *normalization))

    return jax.jit(features)
