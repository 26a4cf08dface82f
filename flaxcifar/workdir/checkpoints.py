"""Checkpoints: the only place that knows orbax.

A workdir keeps two kinds apart. `checkpoints/latest/<step>` holds everything that resume needs;
`checkpoints/best/<step>` holds what evaluation needs. Both have two files of plain JSON: `layout`
is how the arrays are packed, `record` what the run knows beside them. A latest's record names its
`best_step`, and the two are one checkpoint: where either is damaged, an older one is taken.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import absl.logging
import jax
import numpy as np
import orbax.checkpoint as ocp

from flaxcifar import console
from flaxcifar.errors import NonFiniteError, RunError, UserError
from flaxcifar.workdir import migration, names
from flaxcifar.workdir.atomic_folders import Store
from flaxcifar.workdir.packing import PART, Layout, pack, unpack

Record = dict[str, Any]

_KEEP = 2  # latest ones


def describe_difference(saved: dict[str, str], expected: dict[str, str]) -> str:
    """Returns how two {path: description} differ, or an empty string; at most five paths."""
    lines = [
        f"{path} is {saved.get(path, 'missing')} there, {expected.get(path, 'missing')} here"
        for path in sorted({*saved, *expected})
        if saved.get(path) != expected.get(path)
    ]
    more = f"; and {len(lines) - 5} more" if len(lines) > 5 else ""
    return "; ".join(lines[:5]) + more


def space(state: Any) -> int:
    """Returns how many bytes the checkpoints of such a state take at most."""
    # While the newest is written the ones before are kept, and a best beside each.
    return 2 * (_KEEP + 1) * sum(x.nbytes for x in jax.tree.leaves(state))


class Checkpoints:
    """The checkpoints of one workdir; a thread brings them to disk while training goes on."""

    def __init__(self, workdir: str | os.PathLike):
        # Orbax tells of every file at level INFO; its warnings stay.
        absl.logging.set_verbosity(absl.logging.WARNING)
        root = Path(workdir).absolute()
        self._latest, self._best = Store(root / names.LATEST), Store(root / names.BEST)
        # One process reads and writes: orbax should not wait for others.
        alone = ocp.options.MultiprocessingOptions(
            primary_host=jax.process_index(), active_processes={jax.process_index()}
        )
        # What it is given is not changed any more, so that it need not copy that first.
        uncopied = ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)
        handlers = ocp.type_handlers.create_type_handler_registry(
            (np.ndarray, uncopied),
            (jax.Array, ocp.type_handlers.ArrayHandler()),  # there are none; orbax warns without
        )
        # Compressed, trained float32 numbers are 8 % smaller, and a save takes far longer.
        self._arrays = ocp.Checkpointer(
            ocp.PyTreeCheckpointHandler(
                use_compression=False, multiprocessing_options=alone, type_handler_registry=handlers
            ),
            multiprocessing_options=alone,
        )
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._pending: list[Future] = []

    def clean(self) -> None:
        """Removes what a killed run left half-written; only for the one run that may write here."""
        self._latest.clean()
        self._best.clean()

    def save_latest(self, step: int, state: Any, record: Record) -> None:
        """Starts to save a pytree of arrays as the newest state; the arrays may be donated then.

        Raises RunError where an earlier save has failed, NonFiniteError where this one would keep
        numbers that are not finite.
        """
        self._save(self._latest, step, state, record, self._remove_old)

    def save_best(self, step: int, params: Any, batch_stats: Any, record: Record) -> None:
        """Starts to save flat dicts of what evaluation needs, of the best evaluation so far.

        Earlier ones stay until no latest names them.
        """
        tree = {"params": params, "batch_stats": batch_stats}
        self._save(self._best, step, tree, record, lambda: None)

    def restore_latest(
        self,
        like: Any | None,
        *,
        strict: bool = False,
        migrate: Callable[[Record], bool] = lambda record: False,
    ) -> tuple[Any, Record] | None:
        """Returns the newest whole state, NumPy arrays in the structure of `like`, and its record.

        Without `like` it is a flat dict by path. What is damaged is named and passed over, or
        refused where `strict`. Where `migrate` says so of its record, the state of another freeze
        plan is fitted into `like`, which gives what is missing. None without any.
        Raises UserError where all are damaged, and where the arrays are not those of `like`.
        """
        steps = self._latest.numbers()
        for step in steps:
            damage = self._damage(step)
            if damage is None:
                record = _record(self._latest[step])
                return self._restore_like(self._latest[step], like, migrate(record)), record
            complaint = f"the checkpoint of step {step} is damaged: {damage}"
            if strict:
                raise UserError(f"{complaint}; without --strict an older one would be taken")
            console.say(f"{complaint}; it is passed over")
        if steps:
            raise UserError(
                f"no checkpoint in {self._latest.root} is whole; nothing was changed: choose "
                "another workdir to begin anew"
            )
        return None

    def restore_best(self) -> tuple[Any, Record] | None:
        """Returns {"params", "batch_stats"} of the best and its record; None without any.

        The best is that of the newest whole latest; of a run that has none yet, the newest best.
        """
        whole = (step for step in self._latest.numbers() if self._damage(step) is None)
        newest = next(whole, None)
        if newest is None:
            step = next(iter(self._best.numbers()), None)
        else:
            step = _record(self._latest[newest])["best_step"]
        if not step:
            return None
        damage = self._best.damage(step)
        if damage:
            raise UserError(f"the best checkpoint, of step {step}, is damaged: {damage}")
        best: dict[str, Any] = {"params": {}, "batch_stats": {}}
        for path, array in self._read(self._best[step]).items():
            kind, _, name = path.partition(".")
            best[kind][name] = array
        return best, _record(self._best[step])

    def wait(self) -> None:
        """Returns when everything is on disk; raises RunError where something is not."""
        self._settle(0)

    def close(self) -> None:
        """Waits and frees the thread."""
        self._writer.shutdown()
        self._arrays.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _save(
        self, store: Store, step: int, tree: Any, record: Record, then: Callable[[], None]
    ) -> None:
        # Where the steps run on this processor, too, a save beside them costs them more than one
        # between them: they wait for the slower of their threads. What remains is the disk's part.
        at_once = jax.default_backend() == "cpu"
        self._settle(0 if at_once else 1)
        # They are copies: the caller goes on to reuse the memory of its arrays.
        arrays, layout = pack({path: np.asarray(leaf) for path, leaf in _leaves(tree).items()})
        if not all(np.isfinite(x).all() for x in arrays.values() if x.dtype.kind == "f"):
            raise NonFiniteError(f"the state of step {step} has numbers that are not finite")
        if jax.process_index():
            return
        texts = {"record": json.dumps(record), "layout": json.dumps(layout)}
        # Files of one part, so that several are hashed at once.
        saved = ocp.args.PyTreeSave(arrays, ocdbt_target_data_file_size=PART)

        def fill(folder: Path) -> None:
            self._arrays.save(folder / "state", args=saved)
            for name, text in texts.items():
                (folder / f"{name}.json").write_text(text)

        @contextlib.contextmanager
        def explained() -> Iterator[None]:
            try:
                yield
            except Exception as error:
                kept = next(iter(self._latest.numbers()), None)
                raise RunError(
                    f"the checkpoint of step {step} could not be written to {store.root} "
                    f"({' '.join(str(error).split())[:300]}); "
                    + ("none is" if kept is None else f"that of step {kept} is")
                    + " kept: the same command goes on from there once the cause is mended"
                ) from error

        def write() -> None:
            with explained():
                store.write(step, fill)

        def publish() -> None:
            with explained():
                store.publish(step)
                then()

        def write_and_publish() -> None:
            write()
            publish()

        if at_once:
            write()
        rest = publish if at_once else write_and_publish
        self._pending.append(self._writer.submit(rest))

    def _settle(self, most: int) -> None:
        """Returns when at most so many saves are under way; raises what went wrong in others."""
        while self._pending and (len(self._pending) > most or self._pending[0].done()):
            self._pending.pop(0).result()

    def _remove_old(self) -> None:
        kept = self._latest.numbers()[:_KEEP]
        for step in self._latest.numbers()[_KEEP:]:
            self._latest.remove(step)
        named = {_record(self._latest[step])["best_step"] for step in kept}
        for step in self._best.numbers():
            if step not in named and step < max(named):
                self._best.remove(step)

    def _damage(self, step: int) -> str | None:
        """Returns what is wrong with a latest or with the best that belongs to it."""
        damage = self._latest.damage(step)
        if damage is None and (best := _record(self._latest[step])["best_step"]):
            damage = self._best.damage(best)
            return damage and f"its best, of step {best}: {damage}"
        return damage

    def _restore_like(self, folder: Path, like: Any | None, migrate: bool) -> Any:
        if like is None:
            return self._read(folder)
        saved = {path: f"{dtype}{shape}" for path, (dtype, shape, _) in _layout(folder).items()}
        wanted = {path: f"{x.dtype}{list(x.shape)}" for path, x in _leaves(like).items()}
        if migrate and saved != wanted:
            return self._migrate(folder, like, saved, wanted)
        difference = describe_difference(saved, wanted)
        if difference:
            raise UserError(
                f"the checkpoint in {folder} is of another model or optimizer "
                f"({difference}); choose another workdir; nothing was changed"
            )
        arrays = self._read(folder)
        return jax.tree_util.tree_map_with_path(lambda path, _: arrays[_name(path)], like)

    def _migrate(
        self, folder: Path, like: Any, saved: dict[str, str], wanted: dict[str, str]
    ) -> Any:
        found = migration.sources(saved, wanted)
        other = {
            path: wanted[path]
            for path in wanted.keys() - found.keys()
            if not path.startswith("state.opt_state.")
        }
        if other:
            raise UserError(
                f"the checkpoint in {folder} is of another model "
                f"({describe_difference(saved, saved | other)}); nothing was changed"
            )
        console.say(migration.summary(saved, wanted, found))
        arrays = self._read(folder)

        def place(path: Any, fresh: Any) -> np.ndarray:
            source = found.get(_name(path))
            return np.asarray(fresh) if source is None else arrays[source]

        return jax.tree_util.tree_map_with_path(place, like)

    def _read(self, folder: Path) -> dict[str, np.ndarray]:
        """Returns the arrays by path."""
        try:
            packed = self._arrays.restore(folder / "state", args=ocp.args.PyTreeRestore())
        except Exception as error:  # it is as it was written, so orbax must have changed
            words = " ".join(str(error).split())[:300]
            raise UserError(f"orbax {ocp.__version__} cannot read {folder} ({words})") from error
        return dict(unpack(packed, _layout(folder)))


def read_best(workdir: str | os.PathLike) -> tuple[dict[str, Any], Record]:
    """Returns {"params", "batch_stats"} of a run's best evaluation, and its record.

    Raises UserError where `workdir` is no run's or has no such checkpoint yet.
    """
    if not any((Path(workdir) / name).exists() for name in (names.CHECKPOINTS, names.CONFIG)):
        raise UserError(f"{workdir} is no workdir of a run: it has no checkpoints")
    with Checkpoints(workdir) as checkpoints:
        found = checkpoints.restore_best()
    if found is None:
        raise UserError(f"{workdir} has no checkpoint yet: its run ended before an evaluation")
    return found


def _record(folder: Path) -> Record:
    return json.loads((folder / "record.json").read_text())


def _layout(folder: Path) -> Layout:
    try:
        return json.loads((folder / "layout.json").read_text())
    except FileNotFoundError:
        raise UserError(
            f"{folder} is of an earlier flaxcifar, whose checkpoints this one cannot read"
        ) from None


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _leaves(tree: Any) -> dict[str, Any]:
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
