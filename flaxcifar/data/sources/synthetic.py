"""`synthetic`: drawn images of 100 classes that no linear model can tell apart.

A superclass is a texture or a shape. A class is that drawing in one of five pairs of opposite
colours. Position, size, angle, phase and shade are random. Every image comes with its negative,
which has the same class. Labels are then independent of the pixels for a linear model with any
convex loss: fitted on a split, it reaches chance accuracy. (On a random part of a split, where some
negatives are missing, it reaches slightly more.) Horizontal flips, small shifts and small rotations
keep the class.
"""

from functools import partial

import numpy as np

from flaxcifar.data.dataset import Dataset, Split
from flaxcifar.data.source import Empty, Source
from flaxcifar.data.sources import SOURCES
from flaxcifar.data.sources.drawings import DRAWINGS, Random

# Directions in RGB, from a grey to the figure; the ground is in the opposite direction.
_COLOURS = {
    "white and black": (1.0, 1.0, 1.0),
    "red and cyan": (1.0, -0.8, -0.8),
    "green and magenta": (-0.8, 1.0, -0.8),
    "blue and yellow": (-0.8, -0.8, 1.0),
    "orange and azure": (1.0, 0.0, -1.0),
}
_TRAIN_PER_CLASS, _TEST_PER_CLASS = 200, 40
# Change this whenever the images change.
_VERSION = 1


@SOURCES.register
def synthetic(directory: str, image_size: int) -> Source:
    """20,000 training and 4,000 test images; `directory` is ignored."""
    recipe = f"synthetic {_VERSION}, {image_size} pixels"
    return Source("synthetic", recipe, partial(_draw_dataset, image_size), files=())


def _draw_dataset(image_size: int, _: Empty) -> Dataset:
    superclass_of = np.repeat(np.arange(len(DRAWINGS), dtype=np.int32), len(_COLOURS))
    return Dataset(
        "synthetic",
        _draw_split(0, _TRAIN_PER_CLASS, image_size),
        _draw_split(1, _TEST_PER_CLASS, image_size),
        tuple(f"{drawing}, {colours}" for drawing in DRAWINGS for colours in _COLOURS),
        superclass_of,
        tuple(DRAWINGS),
    )


def _draw_split(number: int, per_class: int, size: int) -> Split:
    """Returns `per_class` images of each class; image i has class i % 100.

    The second half of the split are the negatives of the first. Images are the same to the bit on
    every machine: random bits are raw output of Philox, and the arithmetic uses only operations
    that IEEE 754 rounds correctly (+ - * / sqrt floor), never sin or exp.
    """
    count = per_class // 2 * len(_COLOURS)
    labels = np.arange(count * len(DRAWINGS), dtype=np.int32) % (len(DRAWINGS) * len(_COLOURS))
    images = np.empty((len(labels), size, size, 3), np.uint8)
    centres = (np.arange(size, dtype=np.float32) * 2 + 1) / np.float32(size) - 1
    y, x = np.meshgrid(centres, centres, indexing="ij")
    colours = np.array(list(_COLOURS.values()), np.float32)[np.arange(count) % len(_COLOURS)]
    for family, draw in enumerate(DRAWINGS.values()):
        random = Random(key=(family, number), count=count)
        pattern = draw(*random.placed(x, y), random)[..., None]
        colour = colours[:, None, None, :] + random.uniform(-0.25, 0.25, 1, 1, 3)
        contrast = random.uniform(45, 85, 1, 1, 1) * random.sign()[..., None]
        grey = random.uniform(100, 156, 1, 1, 3)
        noise = random.uniform(-24, 24, size, size, 3)
        picture = grey + contrast * colour * pattern + noise
        images[labels // len(_COLOURS) == family] = np.clip(picture, 0, 255).astype(np.uint8)
    return Split(np.concatenate([images, 255 - images]), np.tile(labels, 2))
