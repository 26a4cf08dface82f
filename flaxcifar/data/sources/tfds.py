"""Finds or downloads datasets of TensorFlow Datasets."""

import contextlib
import json
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from flaxcifar import console
from flaxcifar.data.source import Source
from flaxcifar.data.sources.tfds_reader import read_prepared
from flaxcifar.data.tensorflow import failure, import_tfds
from flaxcifar.errors import UserError, suggestion

_NAME = re.compile(r"(?P<path>\w+(?:/[\w.+-]+)?)(?::(?P<version>\d+\.\d+\.\d+))?")
_PATIENCE = 5.0  # seconds that a host may take to answer
_VERSION = re.compile(r"\d+\.\d+\.\d+")


@dataclass(frozen=True)
class Download:
    """A dataset that is not prepared yet."""

    name: str
    data_dir: Path
    image_size: int

    def prepared(self) -> Source:
        """Downloads and prepares the dataset; TFDS does so under another name until it is complete.

        Raises:
          UserError: the name is unknown, or the download failed.
        """
        console.say(f"downloading {self.name} to {self.data_dir}")
        with self._builder() as (tfds, builder):
            from tensorflow_datasets.core.download import downloader

            # The default, ten tries with exponential backoff, takes minutes without a network.
            downloader.MAX_RETRIES = 5
            # Its warning of every try would say what the error says.
            logging.getLogger("urllib3").setLevel(logging.ERROR)
            config = tfds.download.DownloadConfig(try_download_gcs=False)
            builder.download_and_prepare(download_config=config)
            root = Path(builder.data_path)
        return _source(self.name, root, self.image_size)

    def hosts(self) -> dict[str, bool]:
        """Returns the hosts that TFDS knows to have the files, and whether they answer.

        Raises:
          UserError: the name is unknown.
        """
        with self._builder() as (_, builder):
            urls = {urlsplit(url).hostname: url for url in builder.url_infos}
        return {host: _answers(url) for host, url in urls.items()}

    @contextlib.contextmanager
    def _builder(self) -> Iterator[tuple[ModuleType, Any]]:
        """Context manager: yields TFDS and the builder, and explains errors."""
        tfds = import_tfds()
        try:
            yield tfds, tfds.builder(self.name, data_dir=self.data_dir, try_gcs=False)
        except tfds.core.DatasetNotFoundError as error:
            known = [*tfds.list_builders(with_community_datasets=False), "synthetic", "folder"]
            raise UserError(
                f"data.name must be a dataset of TensorFlow Datasets, folder or synthetic, got "
                f"{self.name!r}, which is not prepared in {self.data_dir} either"
                f"{suggestion(self.name, known)}"
            ) from error
        except Exception as error:  # TFDS does not wrap errors of DNS, HTTP or the disk
            raise UserError(
                f"{self.name} is not prepared in {self.data_dir} and cannot be downloaded "
                f"({failure(error)}). {self.offline()}"
            ) from error

    def offline(self) -> str:
        """Returns what to do without a network."""
        return (
            "Without a network, set --config.data.dir to a folder with the dataset prepared by "
            f"TFDS{_archive_hint(self.name)}, or use --config.data.name=folder or "
            "--config.data.name=synthetic"
        )


def tfds_source(name: str, directory: str, image_size: int) -> Source | Download:
    """Finds a prepared dataset, without TensorFlow.

    Args:
      name: `NAME[/CONFIG][:VERSION]`, as in TFDS.
      directory: the `data_dir` of TFDS, or the folder of a prepared dataset; "" is TFDS' default.

    Raises:
      UserError: the name is malformed, or the folder is missing or of another dataset.
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
    root = _prepared(data_dir, match["path"], match["version"])
    return _source(name, root, image_size) if root else Download(name, data_dir, image_size)


def _source(name: str, root: Path, image_size: int) -> Source:
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


def _answers(url: str) -> bool:
    """Whether the host of `url` answers, with whatever status; downloads nothing."""
    from http.client import HTTPException  # slow to import, and needs the network's modules
    from urllib import error, request

    try:
        request.urlopen(request.Request(url, method="HEAD"), timeout=_PATIENCE).close()
    except error.HTTPError:
        return True
    except (OSError, HTTPException):
        return False
    return True


def _archive_hint(name: str) -> str:
    number = name.removeprefix("cifar")
    return f" or cifar-{number}-python.tar.gz" if name in ("cifar10", "cifar100") else ""
