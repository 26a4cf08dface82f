import numpy as np
import pytest
from PIL import Image

from flaxcifar.data.images import read_images, resize_images, try_images
from flaxcifar.errors import UserError


def read(paths, size):
    images = np.empty((len(paths), size, size, 3), np.uint8)
    read_images(paths, images)
    return images


@pytest.fixture
def picture():
    ramp = np.linspace(0, 255, 40 * 24).reshape(24, 40)
    return np.stack([ramp, ramp[::-1], 255 - ramp], axis=-1).astype(np.uint8)


def test_lossless_formats_come_back_as_they_are(tmp_path, picture):
    square = picture[:, :24]
    paths = [tmp_path / f"image.{kind}" for kind in ("png", "bmp", "tiff", "ppm")]
    for path in paths:
        Image.fromarray(square).save(path)
    for image in read(paths, 24):
        np.testing.assert_array_equal(image, square)


def test_order_and_threads(tmp_path):
    paths = [tmp_path / f"{value}.png" for value in range(100)]
    for value, path in enumerate(paths):
        Image.new("RGB", (2, 2), (value, 0, 0)).save(path)
    np.testing.assert_array_equal(read(paths, 2)[:, 0, 0, 0], np.arange(100))


def test_resizing_averages_the_pixels(tmp_path, picture):
    path = tmp_path / "image.png"
    Image.fromarray(picture).save(path)
    (image,) = read([path], 8)
    blocks = picture.reshape(8, 3, 8, 5, 3).mean(axis=(1, 3))
    # The triangle filter is wider than a block, so borders differ a little.
    np.testing.assert_allclose(image[1:-1, 1:-1], blocks[1:-1, 1:-1], atol=2)
    np.testing.assert_array_equal(resize_images(picture[None], 8)[0], image)


def test_images_of_the_right_size_are_not_touched(picture):
    square = picture[None, :, :24]
    assert resize_images(square, 24) is square


def test_exif_orientation(tmp_path, picture):
    square = picture[:, :24]
    path = tmp_path / "image.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(square).save(path, exif=exif)
    np.testing.assert_array_equal(read([path], 24)[0], np.rot90(square, -1))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    value = 255 if mode == "1" else 200
    image = Image.new("RGB", (4, 4), (value, value, value))
    if mode == "I;16":
        image = Image.fromarray(np.full((4, 4), value * 257 + 100, np.uint16))
    else:
        image = image.quantize() if mode == "P" else image.convert(mode)
    path = tmp_path / f"image.{'tiff' if mode == 'CMYK' else 'png'}"
    image.save(path)
    with Image.open(path) as saved:
        assert saved.mode == mode
    np.testing.assert_array_equal(read([path], 4), np.full((1, 4, 4, 3), value))


@pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "text", "cut short"])
def test_an_unreadable_image_is_named(tmp_path, picture, content):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    Image.fromarray(picture).save(good)
    bad.write_bytes(good.read_bytes()[:120] if content is None else content)
    with pytest.raises(UserError, match=r"cannot read the image .*bad\.png"):
        read([good, bad, good], 8)


def test_only_regular_files_are_opened(tmp_path):
    path = tmp_path / "link.png"
    path.symlink_to("/dev/null")
    (found,) = try_images([path], 8)
    assert isinstance(found, UserError) and f"{path} is not a regular file" in str(found)


@pytest.mark.parametrize("limit", [600, 300], ids=["warning", "error"])
def test_absurd_sizes_are_refused(tmp_path, picture, monkeypatch, limit):
    # Pillow warns above its limit and raises above twice the limit; the picture has 960 pixels.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    path = tmp_path / "huge.png"
    Image.fromarray(picture).save(path)
    with pytest.raises(UserError, match=r"huge\.png .*exceeds limit"):
        read([path], 8)
