"""Trained models: loading and prediction."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxcifar import config, console, data
from flaxcifar.data.dataset import Dataset
from flaxcifar.data.images import resize_images, try_images
from flaxcifar.data.normalization import Normalization, normalize
from flaxcifar.errors import UserError
from flaxcifar.models.network import Arrays, Network
from flaxcifar.training.networks import make_network
from flaxcifar.workdir.checkpoints import read_best

Variables = tuple[Arrays, Arrays]


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A trained model with its preprocessing and class names.

    Example:
      probabilities = Trained.from_workdir("runs/first").predict(images)

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
        settings = config.from_json(record["config"])
        params, batch_stats = (
            {path: jnp.asarray(value) for path, value in best[kind].items()}
            for kind in ("params", "batch_stats")
        )
        return cls(
            config=settings,
            network=make_network(settings, len(record["class_names"]))[0],
            variables=(params, batch_stats),
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

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Computes class probabilities, float32 [N, classes].

        Args:
          images: uint8 [N, H, W, 3]; resized if H or W differs from `image_size`.

        Raises:
          UserError: for another dtype or shape.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise UserError(
                f"images must be uint8 [N, H, W, 3], got {images.dtype} {list(images.shape)}."
            )
        images, size = resize_images(images, self.image_size), self.config.eval_batch_size
        compiled, normalization = _probabilities(self.network), self.normalization.arrays()
        found = [np.zeros((0, len(self.class_names)), np.float32)]
        with console.working("predicting", len(images)) as advance:
            for start in range(0, len(images), size):
                batch = images[start : start + size]
                # The last batch is padded, so that one compiled program serves all.
                padded = np.zeros((size, *batch.shape[1:]), np.uint8)
                padded[: len(batch)] = batch
                result = compiled(normalization, self.variables, padded)
                found.append(np.asarray(result)[: len(batch)])
                advance(len(batch))
        return np.concatenate(found)

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
                found = iter(self.predict(np.stack(readable)) if readable else ())
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
