"""Checkpoints: the only place that knows orbax.

A workdir keeps two kinds apart. `checkpoints/latest` holds everything that resume needs; the one
before the newest stays until the newest is complete. `checkpoints/best` holds what evaluation
needs. Both carry a `record`, plain JSON: what the run knows beside its arrays.
"""

import os
from pathlib import Path
from typing import Any

import absl.logging
import jax
import orbax.checkpoint as ocp

from flaxcifar.errors import UserError

Record = dict[str, Any]


def describe_difference(saved: dict[str, str], expected: dict[str, str]) -> str:
    """Returns how two {path: description} differ, or an empty string; at most five paths."""
    lines = [
        f"{path} is {saved.get(path, 'missing')} there, {expected.get(path, 'missing')} here"
        for path in sorted({*saved, *expected})
        if saved.get(path) != expected.get(path)
    ]
    more = f"; and {len(lines) - 5} more" if len(lines) > 5 else ""
    return "; ".join(lines[:5]) + more


class Checkpoints:
    """The checkpoints of one workdir; saving goes on in the background until `wait`."""

    def __init__(self, workdir: str | os.PathLike):
        # Orbax tells of every file at level INFO; its warnings stay.
        absl.logging.set_verbosity(absl.logging.WARNING)
        self._root = Path(workdir).absolute() / "checkpoints"
        self._latest = self._manager("latest", keep=2)
        self._best = self._manager("best", keep=1)

    def _manager(self, kind: str, keep: int) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            self._root / kind,
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "record": ocp.JsonCheckpointHandler(),
            },
        )

    def save_latest(self, step: int, state: Any, record: Record) -> None:
        """Starts to save the training state, a pytree of arrays, as the newest."""
        _save(self._latest, step, state, record)

    def save_best(self, step: int, params: Any, batch_stats: Any, record: Record) -> None:
        """Starts to save flat dicts of what evaluation needs as the best."""
        _save(self._best, step, {"params": params, "batch_stats": batch_stats}, record)

    def restore_latest(self, like: Any) -> tuple[Any, Record] | None:
        """Returns the newest state, in the structure of `like`, and its record; None without any.

        Raises UserError where its arrays are not those of `like`.
        """
        step = self._latest.latest_step()
        return None if step is None else _restore(self._latest, step, like)

    def restore_best(self) -> tuple[Any, Record] | None:
        """Returns {"params", "batch_stats"} of the best and its record; None without any."""
        step = self._best.latest_step()
        return None if step is None else _restore(self._best, step, None)

    def wait(self) -> None:
        """Returns when everything is on disk; raises what went wrong in the background."""
        self._latest.wait_until_finished()
        self._best.wait_until_finished()

    def close(self) -> None:
        """Waits and frees the threads."""
        self._latest.close()
        self._best.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_best(workdir: str | os.PathLike) -> tuple[dict[str, Any], Record]:
    """Returns {"params", "batch_stats"} of a run's best evaluation, and its record.

    Raises UserError where `workdir` is no run's or has no such checkpoint yet.
    """
    if not (Path(workdir) / "checkpoints" / "best").is_dir():
        raise UserError(f"{workdir} is no workdir of a run: it has no checkpoints/best")
    with Checkpoints(workdir) as checkpoints:
        found = checkpoints.restore_best()
    if found is None:
        raise UserError(f"{workdir} has no checkpoint yet: its run ended before an evaluation")
    return found


def _save(manager: ocp.CheckpointManager, step: int, tree: Any, record: Record) -> None:
    arguments = ocp.args.Composite(
        state=ocp.args.StandardSave(tree), record=ocp.args.JsonSave(record)
    )
    manager.save(step, args=arguments, force=True)


def _arrays(tree: Any) -> dict[str, str]:
    def name(path) -> str:
        return jax.tree_util.keystr(path, simple=True, separator=".")

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {name(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def _restore(manager: ocp.CheckpointManager, step: int, like: Any | None) -> tuple[Any, Record]:
    if like is None:
        target = None
    else:
        saved = _arrays(manager.item_metadata(step)["state"].tree)
        difference = describe_difference(saved, _arrays(like))
        if difference:
            raise UserError(
                f"the checkpoint in {manager.directory} is of another model or optimizer "
                f"({difference}); choose another workdir; nothing was changed"
            )
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    arguments = ocp.args.Composite(
        state=ocp.args.StandardRestore(target), record=ocp.args.JsonRestore()
    )
    restored = manager.restore(step, args=arguments)
    return restored["state"], restored["record"]
