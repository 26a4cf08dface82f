"""Saves and restores the checkpoints of a run."""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxcifar import console
from flaxcifar.errors import NonFiniteError, RunError, UserError
from flaxcifar.workdir import migration, names
from flaxcifar.workdir.array_files import ArrayFiles, read_layout
from flaxcifar.workdir.background import Background
from flaxcifar.workdir.checkpoint_folders import (
    KEPT_LATEST,
    CheckpointFolders,
    Record,
    read_record,
    write_record,
)
from flaxcifar.workdir.packing import pack
from flaxcifar.workdir.step_folders import StepFolders
from flaxcifar.workdir.tree_paths import (
    by_path,
    describe,
    describe_difference,
    describe_layout,
    path_name,
)

# Bytes that a checkpoint takes beyond its arrays, at most.
_OVERHEAD = 2**17


def space(state: Any) -> int:
    """Returns the most disk space that the checkpoints of `state` can take, in bytes."""
    # A new checkpoint is written before the oldest is removed, and each may have a best one.
    return 2 * (KEPT_LATEST + 1) * sum(x.nbytes for x in jax.tree.leaves(state))


class Checkpoints:
    """The checkpoints of one workdir. A thread brings them to disk while training continues."""

    def __init__(self, workdir: str | os.PathLike):
        self._folders = CheckpointFolders(Path(workdir).absolute())
        self._arrays = ArrayFiles()
        self._saves = Background("checkpoints")

    def clean(self) -> None:
        """Removes what killed runs have left unfinished. Only for the run that holds the lock."""
        self._folders.clean()

    def save_latest(self, step: int, state: Any, record: Record) -> None:
        """Starts to save a pytree of arrays, which the caller may donate when this returns.

        Args:
          step: names the checkpoint.
          state: everything that resume needs.
          record: JSON metadata; `best_step` names the best checkpoint, 0 for none.

        Raises:
          RunError: an earlier save has failed.
          NonFiniteError: the state has numbers that are not finite.
        """
        self._save(
            self._folders.latest, step, state, record, lambda: self._folders.remove_old(step)
        )

    def save_best(self, step: int, params: Any, batch_stats: Any, record: Record) -> None:
        """Starts to save the flat dicts of the best evaluation so far.

        Earlier ones stay until no latest checkpoint names them.
        """
        tree = {"params": params, "batch_stats": batch_stats}
        self._save(self._folders.best, step, tree, record, lambda: None)

    def restore_latest(
        self,
        like: Any | None,
        *,
        strict: bool = False,
        migrate: Callable[[Record], bool] = lambda record: False,
    ) -> tuple[Any, Record] | None:
        """Restores the newest intact latest checkpoint.

        Args:
          like: a pytree of the expected structure, or None for a flat dict by path.
          strict: refuse a damaged checkpoint instead of using an older one.
          migrate: says from a record whether the state may have another freeze plan; it is then
            fitted into `like`, which supplies what is missing.

        Returns:
          The state as NumPy arrays and its record, None without any checkpoint.

        Raises:
          UserError: all checkpoints are damaged, or the arrays are not those of `like`.
        """
        step = self._folders.newest_intact(strict)
        if step is None:
            return None
        folder = self._folders.latest[step]
        record = read_record(folder)
        if like is None:
            return self._arrays.read(folder), record
        sources = _sources(folder, like, migrate(record))
        arrays = self._arrays.read(folder)

        def place(path: Any, fresh: Any) -> np.ndarray:
            source = sources.get(path_name(path))
            return np.asarray(fresh) if source is None else arrays[source]

        return jax.tree_util.tree_map_with_path(place, like), record

    def damage(self) -> str | None:
        """Returns what is wrong with the newest latest checkpoint or its best; None if intact."""
        return self._folders.damage()

    def restore_best(self, *, strict: bool = False) -> tuple[Any, Record] | None:
        """Returns {"params", "batch_stats"} of the best checkpoint and its record; None without.

        The best checkpoint is the one that the newest intact latest checkpoint names, or the
        newest best one of a run that has no latest checkpoint yet. It is reported if the newest
        latest checkpoint or its best is damaged, or refused if `strict`.
        """
        step = self._folders.chosen_best(strict)
        if step is None:
            return None
        folder = self._folders.best[step]
        best: dict[str, Any] = {"params": {}, "batch_stats": {}}
        for path, array in self._arrays.read(folder).items():
            kind, _, name = path.partition(".")
            best[kind][name] = array
        return best, read_record(folder)

    def wait(self) -> None:
        """Returns when everything is on disk; raises RunError if a save has failed."""
        self._saves.wait()

    def close(self) -> None:
        """Waits for the saves and frees the threads."""
        self._saves.close()
        self._arrays.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _save(
        self,
        folders: StepFolders,
        step: int,
        tree: Any,
        record: Record,
        afterwards: Callable[[], None],
    ) -> None:
        # If training runs on the CPU, a save during a step slows it by more than the save takes:
        # the step waits for the slowest of its threads. Only the disk's part runs in background.
        at_once = jax.default_backend() == "cpu"
        self._saves.wait(max_pending=0 if at_once else 1)
        # Packing copies: the caller will reuse the memory of its arrays.
        packed, layout = pack({path: np.asarray(leaf) for path, leaf in by_path(tree).items()})
        if not all(np.isfinite(x).all() for x in packed.values() if x.dtype.kind == "f"):
            raise NonFiniteError(f"the state of step {step} has numbers that are not finite")
        if jax.process_index():
            return
        text = json.dumps(record)
        size = sum(x.nbytes for x in packed.values())

        def fill(folder: Path) -> None:
            # On a full disk orbax's threads would print tracebacks and fail in their own words.
            if shutil.disk_usage(folder).free < size + _OVERHEAD:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._arrays.write(folder, packed, layout)
            write_record(folder, text)

        def write() -> Path:
            with self._explained(folders, step):
                return folders.write(fill)

        def publish(written: Path) -> None:
            with self._explained(folders, step):
                folders.publish(written, step)
                afterwards()

        if at_once:
            self._saves.submit(publish, write())
        else:
            self._saves.submit(lambda: publish(write()))

    @contextlib.contextmanager
    def _explained(self, folders: StepFolders, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            kept = next(iter(self._folders.latest.steps()), None)
            raise RunError(
                f"the checkpoint of step {step} could not be written to {folders.root} "
                f"({' '.join(str(error).split())[:300]}); "
                + ("no checkpoint is" if kept is None else f"that of step {kept} is")
                + " kept; fix the cause, then run the same command to resume"
            ) from error


def _sources(folder: Path, like: Any, migrate: bool) -> Mapping[str, str]:
    """Returns {path in `like`: path in the checkpoint}; raises UserError if they do not fit."""
    saved, wanted = describe_layout(read_layout(folder)), describe(like)
    if not migrate or saved == wanted:
        if difference := describe_difference(saved, wanted):
            raise UserError(
                f"{folder} is a checkpoint of another model or optimizer ({difference}); "
                "choose another workdir; nothing was changed"
            )
        return {path: path for path in wanted}
    found = migration.sources(saved, wanted)
    missing = {
        path: wanted[path]
        for path in wanted.keys() - found.keys()
        if not path.startswith("state.opt_state.")
    }
    if missing:
        raise UserError(
            f"{folder} is a checkpoint of another model "
            f"({describe_difference(saved, saved | missing)}); nothing was changed"
        )
    console.say(migration.summary(saved, wanted, found))
    return found


def read_best(workdir: str | os.PathLike, *, strict: bool = False) -> tuple[dict[str, Any], Record]:
    """Returns {"params", "batch_stats"} of a run's best evaluation, and its record.

    Raises UserError if `workdir` is not the workdir of a run, has no such checkpoint yet, or it is
    damaged. An older one is used instead, and reported, unless `strict`.
    """
    if not any((Path(workdir) / name).exists() for name in (names.CHECKPOINTS, names.CONFIG)):
        raise UserError(f"{workdir} is not the workdir of a run: it has no {names.CHECKPOINTS}/")
    with Checkpoints(workdir) as checkpoints:
        found = checkpoints.restore_best(strict=strict)
    if found is None:
        raise UserError(f"{workdir} has no checkpoint yet: its run ended before an evaluation")
    return found
