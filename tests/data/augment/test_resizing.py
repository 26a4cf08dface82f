import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from flaxcifar.data.augment.resizing import resize


@pytest.mark.parametrize("size", [4, 6, 8])
def test_resized_images_are_those_of_pillow(size):
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.float32)
    got = resize(jnp.asarray(image)[None], size)[0]
    for channel in range(3):
        band = Image.fromarray(image[..., channel], mode="F").resize((size, size), Image.BILINEAR)
        np.testing.assert_allclose(got[..., channel], np.asarray(band), rtol=1e-4, atol=0.01)
