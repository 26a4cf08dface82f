"""A folder of images and configs that train on it."""

import numpy as np
import pytest
from PIL import Image

CONFIG = """
from flaxcifar.config import default_config


def get_config():
    config = default_config()
    config.data.name = "folder"
    config.data.dir = {images!r}
    config.data.image_size = 8
    config.data.pipeline = "resident"
    config.data.cache_dir = {cache!r}
    config.batch_size = 16
    config.eval_batch_size = 16
    config.total_epochs = 2
    config.model = dict(name={network!r})
    return config
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of 2 x 40 images, and configs that train crcv and a small network on it."""
    place = tmp_path_factory.mktemp("place")
    rng = np.random.default_rng(0)
    for label, colour in (("blue", 2), ("red", 0)):
        (place / "images" / label).mkdir(parents=True)
        for n in range(40):
            image = rng.integers(0, 100, (8, 8, 3), dtype=np.uint8)
            image[..., colour] += 120
            Image.fromarray(image).save(place / "images" / label / f"{n}.png")
    folders = {"images": str(place / "images"), "cache": str(place / "cache")}
    (place / "config.py").write_text(CONFIG.format(network="crcv", **folders))
    small = "import tiny\n" + CONFIG.format(network="one_stage", **folders)
    (place / "small.py").write_text(small)
    return place
