"""TensorFlow Datasets: prepared directories, read without any network, and downloads."""

import json
import os
import re
from functools import partial
from pathlib import Path

from flaxcifar import console
from flaxcifar.data.prepared import read_prepared
from flaxcifar.data.source import Source
from flaxcifar.data.tensorflow import failure, import_tfds
from flaxcifar.errors import UserError, suggestion

_NAME = re.compile(r"(?P<path>\w+(?:/[\w.+-]+)?)(?::(?P<version>\d+\.\d+\.\d+))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def tfds_source(name: str, directory: str, image_size: int) -> Source:
    """Finds `name[/config][:version]`; a dataset that is prepared is found without TensorFlow.

    directory: the data_dir that holds (or will hold) it, or the prepared dataset itself; "" means
    TFDS' own. Raises UserError for an unknown name and where neither a prepared directory nor the
    network has it.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise UserError(f"data.name {name!r} is no name: expected NAME[/CONFIG][:VERSION]")
    data_dir = Path(directory or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    data_dir = data_dir.expanduser()
    if directory and not data_dir.is_dir():
        raise UserError(
            f"data.dir {directory!r} is no folder: make it if {name} should be downloaded there"
        )
    root = _prepared(data_dir, match["path"], match["version"]) or _download(name, data_dir)
    files = tuple(sorted(path.name for path in root.iterdir() if path.is_file()))
    recipe = f"tfds, {image_size} pixels"
    return Source(name, recipe, partial(read_prepared, name, root, image_size), root, files)


def _prepared(data_dir: Path, path: str, version: str | None) -> Path | None:
    """Returns the prepared directory of the newest version (or of `version`), if there is one."""
    name = path.partition("/")[0]
    if (info := data_dir / "dataset_info.json").is_file():
        found = json.loads(info.read_text(encoding="utf-8")).get("name")
        if found != name:
            raise UserError(f"data.dir {data_dir} holds the dataset {found!r}, not {name!r}")
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
    """Has TFDS download and prepare the dataset; it does so under another name until it is done."""
    tfds = import_tfds()
    console.say(f"{name} is not in {data_dir}: downloading it there")
    try:
        from tensorflow_datasets.core.download import downloader

        # Ten tries, each after twice the time, would hide for minutes that there is no network.
        downloader.MAX_RETRIES = 5
        builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        builder.download_and_prepare(download_config=config)
    except tfds.core.DatasetNotFoundError as error:
        known = [*tfds.list_builders(with_community_datasets=False), "synthetic", "folder"]
        raise UserError(
            f"TensorFlow Datasets knows no {name!r}{suggestion(name, known)} (data.name is one of "
            f"its datasets, folder or synthetic) and none is prepared in {data_dir}"
        ) from error
    except Exception as error:  # from DNS to disk: TFDS wraps nothing
        raise UserError(
            f"{name} is not in {data_dir} and cannot be downloaded "
            f"({failure(error)}). Offline, set --config.data.dir to a folder that "
            f"holds it prepared by TFDS{_archive_hint(name)}, or take "
            "--config.data.name=folder or --config.data.name=synthetic"
        ) from error
    return Path(builder.data_path)


def _archive_hint(name: str) -> str:
    number = name.removeprefix("cifar")
    return f" or cifar-{number}-python.tar.gz" if name in ("cifar10", "cifar100") else ""
