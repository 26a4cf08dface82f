"""Reads and resizes image files with Pillow."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from os import PathLike, cpu_count
from os.path import isfile
from warnings import catch_warnings, simplefilter

import numpy as np
from PIL import Image, ImageOps

from flaxcifar import console
from flaxcifar.data.on_disk import OnDisk
from flaxcifar.errors import UserError


def read_images(paths: Sequence[PathLike], images: np.ndarray | OnDisk) -> None:
    """Reads image files into `images` as RGB, in several threads.

    Applies the EXIF orientation and drops transparency.

    Args:
      paths: N files.
      images: uint8 [N, S, S, 3], filled with the images, resized to S x S.

    Raises:
      UserError: a file cannot be read, is not a regular file, or exceeds Pillow's limit on pixels.
    """
    size = images.shape[1]

    def read(position: int) -> None:
        images[position] = _read_image(paths[position], size)

    with (
        catch_warnings(),
        ThreadPoolExecutor(cpu_count()) as pool,
        console.working("images", len(paths)) as advance,
    ):
        simplefilter("error", Image.DecompressionBombWarning)
        try:
            for _ in pool.map(read, range(len(paths))):
                advance(1)
        except UserError:
            pool.shutdown(cancel_futures=True)
            raise


def try_images(paths: Sequence[PathLike], size: int) -> list[np.ndarray | UserError]:
    """Returns each image as uint8 [size, size, 3], or the error of a file that cannot be read."""

    def read(path: PathLike) -> np.ndarray | UserError:
        try:
            return _read_image(path, size)
        except UserError as error:
            return error

    with catch_warnings(), ThreadPoolExecutor(cpu_count()) as pool:
        simplefilter("error", Image.DecompressionBombWarning)
        return list(pool.map(read, paths))


def resize_images(images: np.ndarray, size: int) -> np.ndarray:
    """Resizes uint8 [N, H, W, 3] to [N, size, size, 3], bilinear with antialiasing."""
    if images.shape[1:3] == (size, size):
        return images
    return np.stack([_resize(Image.fromarray(image), size) for image in images])


def to_pixels(image: Image.Image, size: int) -> np.ndarray:
    """Returns an image as uint8 [size, size, 3], turned as its EXIF orientation says."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        # 16-bit greyscale: convert("RGB") would clip it at 255.
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    return _resize(image.convert("RGB"), size)


def _read_image(path: PathLike, size: int) -> np.ndarray:
    if not isfile(path):
        raise UserError(f"{path} is not a regular file: remove it")
    try:
        with Image.open(path) as image:
            return to_pixels(image, size)
    except Exception as error:  # damaged files raise anything in Pillow's plugins
        raise UserError(
            f"cannot read the image {path} ({' '.join(str(error).split())}): repair or remove it"
        ) from error


def _resize(image: Image.Image, size: int) -> np.ndarray:
    """Returns uint8 [size, size, 3]; the sides are scaled independently, nothing is cropped."""
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image)
