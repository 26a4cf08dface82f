"""Finds or downloads datasets of TensorFlow Datasets."""

import json
import os
import re
from functools import partial
from pathlib import Path

from flaxcifar import console
from flaxcifar.data.source import Source
from flaxcifar.data.sources.tfds_reader import read_prepared
from flaxcifar.data.tensorflow import failure, import_tfds
from flaxcifar.errors import UserError, suggestion

_NAME = re.compile(r"(?P<path>\w+(?:/[\w.+-]+)?)(?::(?P<version>\d+\.\d+\.\d+))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def tfds_source(name: str, directory: str, image_size: int) -> Source:
    """Finds a prepared dataset, without TensorFlow, or else downloads it.

    Args:
      name: `NAME[/CONFIG][:VERSION]`, as in TFDS.
      directory: the `data_dir` of TFDS, or the folder of a prepared dataset; "" is TFDS' default.

    Raises:
      UserError: the name is unknown, or the dataset is neither prepared nor can be downloaded.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise UserError(f"data.name must be NAME[/CONFIG][:VERSION], got {name!r}.")
    data_dir = Path(directory or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    data_dir = data_dir.expanduser()
    if directory and not data_dir.is_dir():
        raise UserError(
            f"data.dir {directory!r} is not a folder: create it to download {name} there"
        )
    root = _prepared(data_dir, match["path"], match["version"]) or _download(name, data_dir)
    files = tuple(sorted(path.name for path in root.iterdir() if path.is_file()))
    recipe = f"tfds, {image_size} pixels"
    return Source(name, recipe, partial(read_prepared, name, root, image_size), root, files)


def _prepared(data_dir: Path, path: str, version: str | None) -> Path | None:
    """Returns the prepared folder of `version` (default: the newest), or None."""
    name = path.partition("/")[0]
    if (info := data_dir / "dataset_info.json").is_file():
        found = json.loads(info.read_text(encoding="utf-8")).get("name")
        if found != name:
            raise UserError(f"data.dir {data_dir} contains the dataset {found!r}, not {name!r}")
        return data_dir
    folders = [data_dir / path, *([data_dir] if data_dir.name == name else [])]
    versions = [
        candidate
        for folder in folders
        if folder.is_dir()
        for candidate in folder.iterdir()
        if _VERSION.fullmatch(candidate.name)
        and version in (None, candidate.name)
        and (candidate / "dataset_info.json").is_file()
    ]
    return max(versions, key=lambda v: tuple(map(int, v.name.split("."))), default=None)


def _download(name: str, data_dir: Path) -> Path:
    """Downloads and prepares a dataset; TFDS does so under another name until it is complete."""
    tfds = import_tfds()
    console.say(f"downloading {name} to {data_dir}")
    try:
        from tensorflow_datasets.core.download import downloader

        # The default, ten tries with exponential backoff, takes minutes without a network.
        downloader.MAX_RETRIES = 5
        builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        builder.download_and_prepare(download_config=config)
    except tfds.core.DatasetNotFoundError as error:
        known = [*tfds.list_builders(with_community_datasets=False), "synthetic", "folder"]
        raise UserError(
            f"data.name must be a dataset of TensorFlow Datasets, folder or synthetic, got "
            f"{name!r}, which is not prepared in {data_dir} either{suggestion(name, known)}"
        ) from error
    except Exception as error:  # TFDS does not wrap errors of DNS, HTTP or the disk
        raise UserError(
            f"{name} is not prepared in {data_dir} and cannot be downloaded ({failure(error)}). "
            "Without a network, set --config.data.dir to a folder with the dataset prepared by "
            f"TFDS{_archive_hint(name)}, or use --config.data.name=folder or "
            "--config.data.name=synthetic"
        ) from error
    return Path(builder.data_path)


def _archive_hint(name: str) -> str:
    number = name.removeprefix("cifar")
    return f" or cifar-{number}-python.tar.gz" if name in ("cifar10", "cifar100") else ""
