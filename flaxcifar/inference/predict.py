"""Predicts classes with a trained model and its preprocessing."""

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxcifar import config, console
from flaxcifar.data.images import resize_images, try_images
from flaxcifar.data.normalization import Normalization, normalize
from flaxcifar.errors import UserError
from flaxcifar.models.network import Network
from flaxcifar.training.networks import make_network
from flaxcifar.workdir.checkpoints import read_best


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
