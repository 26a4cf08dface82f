"""One run in several processes: they join, agree, and end together.

Every process runs the same program on its own rows of each batch. Only process 0 keeps files and
prints. No other module uses `jax.distributed`.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from flaxcifar.devices.tpu import has_chips
from flaxcifar.errors import Interrupted, NonFiniteError, RunError, UserError

T = TypeVar("T")

# Seconds until all processes must have joined, a silent one counts as dead, and all have ended.
_STARTING, SILENCE, _ENDING = 300, 30, 300


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the command line's flags for `start`."""
    group = parser.add_argument_group(
        "several processes (detected on Slurm, Open MPI and TPU VMs; else use the flags)"
    )
    group.add_argument(
        "--distributed", action="store_true", help="let JAX detect them, as on Kubernetes"
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    group.add_argument("--num_processes", type=int, metavar="N", help="number of processes")
    group.add_argument("--process_id", type=int, metavar="I", help="this process: 0 to N - 1")


def start(flags: argparse.Namespace) -> None:
    """Joins the other processes of the run, if there are any. Call it before devices are used.

    Raises UserError if the flags are incomplete, the others do not join in time, or there are no
    devices.
    """
    _join(flags)
    from flaxcifar.devices import parallel

    parallel.all_devices()


def _join(flags: argparse.Namespace) -> None:
    named = (flags.coordinator, flags.num_processes, flags.process_id)
    if named == (None, None, None):
        if not (flags.distributed or _launched()):
            return
    elif None in named or not 0 <= flags.process_id < flags.num_processes:
        raise UserError(
            "--coordinator, --num_processes and --process_id (0 to num_processes - 1) must be "
            "given together"
        )
    import jax

    from flaxcifar import console

    try:
        jax.distributed.initialize(
            flags.coordinator,
            flags.num_processes,
            flags.process_id,
            initialization_timeout=_STARTING,
            heartbeat_timeout_seconds=SILENCE,
            shutdown_timeout_seconds=_ENDING,
        )
    except Exception as error:  # JAX's detection raises anything
        words = " ".join(str(error).split())[:300]
        raise UserError(f"the processes of the run could not connect ({words})") from error
    console.console.quiet = jax.process_index() > 0


def _launched() -> bool:
    """Whether a launcher has started several processes, or this is a TPU VM, maybe one of many."""
    counts = (os.environ.get(name, "") for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"))
    if any(count.isdecimal() and int(count) > 1 for count in counts):
        return True
    return has_chips() and importlib.util.find_spec("libtpu") is not None


def is_first() -> bool:
    """Whether this is process 0, which keeps files and prints."""
    import jax

    return jax.process_index() == 0


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Context manager: an unexpected exception ends this process at once, and so the others.

    They notice at their next collective operation, or after `SILENCE` seconds. Exceptions that all
    processes raise together pass through.
    """
    import jax

    try:
        yield
    except (UserError, Interrupted, NonFiniteError):
        raise
    except Exception as error:
        if jax.process_count() == 1:
            raise
        words = " ".join(str(error).split())[:300]
        # To fetch what a failed collective should have computed may raise any kind of exception.
        if isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in words:
            words = f"another process of the run has ended or cannot be reached ({words})"
        elif not isinstance(error, RunError):
            traceback.print_exc()
        print(
            f"flaxcifar: process {jax.process_index()}: {words}; to resume from the last "
            "checkpoint, run the same command again in all processes",
            file=sys.stderr,
            flush=True,
        )
        # sys.exit would wait for the other processes.
        os._exit(1)


@contextlib.contextmanager
def together() -> Iterator[dict[str, str]]:
    """Context manager: each process prepares for itself; afterwards all continue, or none.

    Yields a dict {name: text} for facts that must be the same in all processes. Raises UserError
    in all of them if one has raised it, or if the facts differ.
    """
    import jax

    facts: dict[str, str] = {}
    failure = None
    try:
        yield facts
    except UserError as error:
        failure = error
    if jax.process_count() > 1:
        told = [json.loads(text) for text in _gather(json.dumps([failure and str(failure), facts]))]
        if failure is None:
            _check_agreement([words for words, _ in told], [others for _, others in told])
    if failure is not None:
        raise failure


def _check_agreement(failures: list[str | None], facts: list[dict[str, str]]) -> None:
    """Raises UserError if another process has failed, or has other facts than process 0."""
    count = len(facts)
    for number, words in enumerate(failures):
        if words:
            raise UserError(f"process {number} of {count}: {words}")
    for name in facts[0]:
        for number, others in enumerate(facts):
            if others[name] != facts[0][name]:
                raise UserError(
                    f"processes 0 and {number} of {count} differ in their {name}: give all of "
                    "them the same command, code and data"
                )


def from_first(make: Callable[[], T]) -> T:
    """Returns in all processes what `make` returns in process 0.

    It may consist of arrays, plain values, lists and dicts. All processes raise its UserError.
    """
    import jax
    from flax import serialization
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return make()
    data = b""
    with together():
        if jax.process_index() == 0:
            data = serialization.msgpack_serialize({"value": make()})
    size = multihost_utils.broadcast_one_to_all(np.int32(len(data)))
    # As bytes: a broadcast is a sum over processes, which turns -0.0 into 0.0.
    own = np.frombuffer(data.ljust(int(size), b"\0"), np.uint8)
    found = np.asarray(multihost_utils.broadcast_one_to_all(own), np.uint8)
    return serialization.msgpack_restore(found.tobytes())["value"]


def _gather(text: str) -> list[str]:
    """Returns the texts of all processes."""
    from jax.experimental import multihost_utils

    data = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(data)))
    padded = np.zeros(int(np.max(sizes)), np.uint8)
    padded[: len(data)] = data
    rows = np.asarray(multihost_utils.process_allgather(padded), np.uint8)
    return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]


@contextlib.contextmanager
def own_workdir(workdir: Path) -> Iterator[Path]:
    """Context manager: yields `workdir` in process 0 and a temporary directory in the others."""
    import jax

    if jax.process_index() == 0:
        yield workdir
        return
    with tempfile.TemporaryDirectory(prefix="flaxcifar-") as directory:
        yield Path(directory)


class Decision:
    """Broadcasts process 0's flags with a delay of one call, so that no process waits."""

    def __init__(self) -> None:
        self._before: Any = None

    def __call__(self, flag: bool) -> bool:
        """Returns the flag of process 0's previous call; in a single process, this one's."""
        import jax

        from flaxcifar.devices import parallel

        if jax.process_count() == 1:
            return flag
        before = self._before
        self._before = parallel.any_process(flag and jax.process_index() == 0)
        return before is not None and bool(before)

    def forget(self) -> None:
        """Drops the last call's flag."""
        self._before = None
