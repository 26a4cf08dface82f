"""The Python API: trains configs and arrays, and reads results. The commands are its clients."""

import dataclasses
import functools
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from flaxcifar import config as configs
from flaxcifar import console
from flaxcifar.components import check_not_importing
from flaxcifar.data.arrays import as_images, as_labels, fingerprint
from flaxcifar.data.cache import cached
from flaxcifar.data.dataset import Dataset, Split
from flaxcifar.data.sources.arrays import kept
from flaxcifar.data.split import split_validation
from flaxcifar.errors import OutOfMemoryError, UserError
from flaxcifar.inference.trained import Trained
from flaxcifar.training.callbacks import Callback, Run
from flaxcifar.training.loop import train_and_evaluate
from flaxcifar.workdir import names
from flaxcifar.workdir.json_files import read_rows
from flaxcifar.workdir.run_folder import fresh_workdir
from flaxcifar.workdir.summary_file import read_summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from ml_collections import ConfigDict

load = Trained.from_workdir

# Without test data, this share of every class is held out, the same in every run.
_TEST_PERCENT, _TEST_SEED = 20.0, 0


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run left in its workdir.

    Attributes:
      workdir: the folder of the run.
      history: a row for each epoch, the rows of metrics.jsonl. `pandas.DataFrame(result.history)`
        makes a table of them.
      summary: the content of summary.json, None for a run that has not ended.
    """

    workdir: Path
    history: list[dict[str, Any]]
    summary: dict[str, Any] | None

    @classmethod
    def read(cls, workdir: str | os.PathLike) -> "Result":
        """Reads the result of a run, also while it is in progress.

        Raises:
          UserError: a file of the run is damaged.
        """
        folder = Path(workdir)
        return cls(folder, read_rows(folder / names.METRICS), read_summary(folder))

    @property
    def test(self) -> dict[str, Any] | None:
        """The metrics of the test split, None for a run that has not ended."""
        return self.summary and self.summary["test"]

    @functools.cached_property
    def model(self) -> Trained:
        """The best checkpoint of the run.

        Raises:
          UserError: the run has no checkpoint.
        """
        return load(self.workdir)

    def report(self) -> "Report":
        """Returns the report of the run, which a notebook shows inline; writes it if missing."""
        from flaxcifar.report import write_report  # slow to import

        path = self.workdir / names.REPORT
        return Report(path if path.exists() else write_report(self.workdir))

    def plot_curves(self) -> "Figure":
        """Draws loss and accuracy of each epoch."""
        from flaxcifar.report.figures import curves

        return curves(self.history)

    def plot_confusion(self) -> "Figure":
        """Draws the confusion matrix of the test split, or of validation before the run ends.

        Raises:
          UserError: the run has no checkpoint, or its dataset is missing or has changed.
        """
        from flaxcifar.inference.analysis import read_details
        from flaxcifar.report.figures import confusion

        details = read_details(self.workdir, under_way=self.summary is None)
        return confusion(details.matrix, details.dataset.class_names)


@dataclasses.dataclass(frozen=True)
class Report:
    """The path of a report. A notebook shows the report itself."""

    path: Path

    def _repr_html_(self) -> str:
        import html

        page = html.escape(self.path.read_text(encoding="utf-8"), quote=True)
        return f'<iframe srcdoc="{page}" width="100%" height="800" frameborder="0"></iframe>'


def load_config(name: str | os.PathLike, **overrides: Any) -> "ConfigDict":
    """Returns a config by the name of one of the package's or by the path of its Python file.

    Args:
      name: such as "speed100" or "configs/mine.py".
      overrides: values of config keys. Sections are dicts, or dotted keys:
        `load_config("vgg", total_epochs=5, optimizer={"decay": 0.1})` or
        `load_config("vgg", **{"optimizer.decay": 0.1})`.

    Raises:
      UserError: there is no such config, or a key or value is invalid.
    """
    return configs.load(os.fspath(name), values=overrides)


def train(
    config: Any,
    workdir: str | os.PathLike | None = None,
    *,
    callbacks: Sequence[Callback] = (),
    strict: bool = False,
    allow_change: Collection[str] = (),
) -> Result:
    """Trains a config in `workdir`, or resumes the run that `workdir` holds.

    Writes `report.html` at the end if `config.report` is set. In the main thread, SIGTERM and
    SIGINT save the state after the current step and end the run.

    Args:
      config: as returned by `load_config`.
      workdir: the directory for checkpoints and results, created if missing; by default a new one
        in `runs/`.
      callbacks: see `Callback`.
      strict: refuse to resume from an older checkpoint if the newest is damaged.
      allow_change: config keys that may differ from those of the run in `workdir`.

    Returns:
      The result. Its files are those of the first of several processes.

    Raises:
      UserError: the config, data, devices or workdir do not fit together. Nothing was written.
      RunError: the loss became non-finite, a checkpoint could not be written, a device ran out of
        memory, or a signal arrived.
    """
    check_not_importing()
    configs.check(config)
    if workdir is None:
        workdir = fresh_workdir(f"{config.model.name}-{config.data.name}")
    reporting = (_WriteReport(),) if config.report else ()
    try:
        train_and_evaluate(
            config,
            workdir,
            strict=strict,
            allow_change=allow_change,
            callbacks=(*reporting, *callbacks),
        )
    except OutOfMemoryError as error:
        from flaxcifar.tpu import out_of_memory  # slow to import

        advice = out_of_memory.advice(error.experiment)
        if advice is None:
            raise
        raise OutOfMemoryError(f"{error}; {advice}", error.experiment) from error
    return Result.read(workdir)


def fit(
    images: ArrayLike,
    labels: ArrayLike,
    *,
    config: Any,
    workdir: str | os.PathLike | None = None,
    validation_data: tuple[ArrayLike, ArrayLike] | None = None,
    test_data: tuple[ArrayLike, ArrayLike] | None = None,
    class_names: Sequence[str] = (),
    superclass_of: ArrayLike | None = None,
    callbacks: Sequence[Callback] = (),
    strict: bool = False,
    allow_change: Collection[str] = (),
) -> Result:
    """Trains on arrays. The same call resumes an interrupted run.

    The arrays are kept in the cache of datasets, once for the same content, so that every command
    works on the run's workdir.

    Args:
      images: square images [N, S, S, 3], or grey [N, S, S], of the dtypes and ranges of
        `data.arrays.as_images`. `config.data.image_size` becomes S.
      labels: integers [N] from 0.
      config: as returned by `load_config`; its dataset is replaced.
      workdir: as for `train`.
      validation_data: images and labels for validation, instead of
        `config.data.validation_percent` of each class.
      test_data: images and labels for the test split; by default a fifth of each class is held
        out, the same in every run.
      class_names: by label; by default their numbers.
      superclass_of: the superclass of each class, integers [classes], if there are any.
      callbacks, strict, allow_change: as for `train`.

    Raises:
      UserError: as for `train`, or the arrays do not fit together.
    """
    dataset = _dataset(
        (images, labels), validation_data, test_data, tuple(class_names), superclass_of
    )
    key = fingerprint(
        dataset.train.images,
        dataset.train.labels,
        dataset.test.images,
        dataset.test.labels,
        dataset.superclass_of,
        np.array([dataset.validation_examples]),
        np.array(dataset.class_names),
    )
    values = configs.to_json(config)
    size = dataset.train.images.shape[1]
    values["data"] |= {"name": "arrays", "dir": key, "image_size": size}
    cached(kept(key, dataset), config.data.cache_dir)
    return train(
        configs.from_json(values),
        workdir,
        callbacks=callbacks,
        strict=strict,
        allow_change=allow_change,
    )


def _dataset(
    training: tuple[ArrayLike, ArrayLike],
    validation: tuple[ArrayLike, ArrayLike] | None,
    test: tuple[ArrayLike, ArrayLike] | None,
    class_names: tuple[str, ...],
    superclass_of: ArrayLike | None,
) -> Dataset:
    """Returns arrays as a dataset.

    Raises:
      UserError: they do not fit together.
    """
    train, held = _split("images", training), validation and _split("validation images", validation)
    if test is None:
        kept_rows, test_rows = split_validation(train.labels, _TEST_PERCENT, _TEST_SEED)
        test_split = Split(train.images[test_rows], train.labels[test_rows])
        train = Split(train.images[kept_rows], train.labels[kept_rows])
        console.say(f"no test_data: {len(test_rows):,} images are held out as the test split")
    else:
        test_split = _split("test images", test)
    for name, split in (("validation", held), ("test", test_split)):
        if split and split.images.shape[1:] != train.images.shape[1:]:
            raise UserError(
                f"{name} images must have the size of the training images, "
                f"{list(train.images.shape[1:3])}, got {list(split.images.shape[1:3])}"
            )
    if held:
        train = Split(
            np.concatenate([train.images, held.images]), np.concatenate([train.labels, held.labels])
        )
    if not class_names:
        class_names = tuple(map(str, range(1 + int(np.max(train.labels)))))
    superclasses, superclass_names = None, tuple[str, ...]()
    if superclass_of is not None:
        superclasses = as_labels(superclass_of, len(class_names), "superclass_of", "classes")
        superclass_names = tuple(map(str, range(1 + int(np.max(superclasses)))))
    held_out = len(held) if held else 0
    return Dataset(
        "arrays", train, test_split, class_names, superclasses, superclass_names, held_out
    )


def _split(name: str, pair: tuple[ArrayLike, ArrayLike]) -> Split:
    images = as_images(pair[0], name)
    height, width = images.shape[1:3]
    if height != width:
        raise UserError(
            f"{name} must be square, got {height} x {width}: pad them (np.pad) or crop them"
        )
    return Split(images, as_labels(pair[1], len(images), name.replace("images", "labels")))


class _WriteReport(Callback):
    """Writes report.html at the end, unless it exists."""

    def on_end(self, run: Run, summary: Mapping[str, Any]) -> None:
        if (run.workdir / names.REPORT).exists():
            return
        from flaxcifar.report import conclude_report  # slow to import

        try:
            console.say(f"report: {conclude_report(run.workdir)}")
        except Exception as error:  # the results are on disk already
            words = " ".join(str(error).split())[:300]
            console.say(f"the report was not written: {type(error).__name__}: {words}")
