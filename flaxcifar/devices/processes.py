"""One run in several processes: how they find each other, agree, and end together.

Every process computes the same but for its rows of each batch. The first one alone writes: what the
others keep on disk is gone with them.
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

from flaxcifar.errors import Interrupted, NonFiniteError, RunError, UserError

T = TypeVar("T")

# Seconds: for all processes to come; after which a silent one counts as dead; for all to end.
_STARTING, SILENCE, _ENDING = 300, 30, 300


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `start`."""
    group = parser.add_argument_group(
        "several processes, found on Slurm, Open MPI and TPU VMs, or by"
    )
    group.add_argument("--distributed", action="store_true", help="whatever JAX can find out")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0")
    group.add_argument("--num_processes", type=int, metavar="N")
    group.add_argument("--process_id", type=int, metavar="I", help="0 to N - 1")


def start(flags: argparse.Namespace) -> None:
    """Joins the other processes of the run, if there are any; comes before all use of devices.

    Raises UserError where the flags are incomplete, or the others do not come in time.
    """
    named = (flags.coordinator, flags.num_processes, flags.process_id)
    if named == (None, None, None):
        if not (flags.distributed or _launched()):
            return
    elif None in named or not 0 <= flags.process_id < flags.num_processes:
        raise UserError(
            "--coordinator, --num_processes and --process_id (0 to num_processes - 1) go together"
        )
    import jax

    from flaxcifar import console

    try:
        jax.distributed.initialize(
            *named,
            initialization_timeout=_STARTING,
            heartbeat_timeout_seconds=SILENCE,
            shutdown_timeout_seconds=_ENDING,
        )
    except (RuntimeError, ValueError) as error:
        words = " ".join(str(error).split())[:300]
        raise UserError(f"the processes of the run did not find each other ({words})") from error
    console.console.quiet = jax.process_index() > 0


def _launched() -> bool:
    """Whether a launcher has started several processes, or this is a TPU VM, perhaps of several."""
    counts = (os.environ.get(name, "") for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"))
    if any(count.isdecimal() and int(count) > 1 for count in counts):
        return True
    chips = (*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*"))
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def is_first() -> bool:
    """Whether this process is the one that writes."""
    import jax

    return jax.process_index() == 0


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Within, what goes wrong in one process alone ends it at once, and with it the others.

    They find out when they next reach for it, or after some seconds of silence.
    """
    import jax

    try:
        yield
    except (UserError, Interrupted, NonFiniteError):
        raise  # by all of them
    except Exception as error:
        if jax.process_count() == 1:
            raise
        words = " ".join(str(error).split())[:300]
        if isinstance(error, jax.errors.JaxRuntimeError):
            words = f"another process of the run has ended or cannot be reached ({words})"
        elif not isinstance(error, RunError):
            traceback.print_exc()
        print(
            f"flaxcifar: process {jax.process_index()}: {words}; the same command, given to all "
            "processes again, goes on from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        # Not sys.exit: JAX would wait for the others.
        os._exit(1)


@contextlib.contextmanager
def together() -> Iterator[dict[str, str]]:
    """Within, each process prepares for itself; after it all of them go on, or none.

    A UserError of one is raised by all, and so is a difference in what they put into the dict that
    is yielded, {name: words}.
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
        for number, (words, _) in enumerate(told):
            if words and failure is None:
                raise UserError(f"process {number} of {len(told)}: {words}")
        for name in facts if failure is None else ():
            for number, (_, others) in enumerate(told):
                if others[name] != told[0][1][name]:
                    raise UserError(
                        f"processes 0 and {number} of {len(told)} have another {name}: give all of "
                        "them the same command, code and data"
                    )
    if failure is not None:
        raise failure


def from_first(make: Callable[[], T]) -> T:
    """Returns what `make` returns in the first process: arrays, plain values, lists and dicts.

    A UserError there is raised by all.
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
    # As bytes: the sum that a broadcast is made of would change a -0.0.
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
    """Yields `workdir` in the first process, and a directory that is gone afterwards in others."""
    import jax

    if jax.process_index() == 0:
        yield workdir
        return
    with tempfile.TemporaryDirectory(prefix="flaxcifar-") as directory:
        yield Path(directory)


class Decision:
    """What the first process says, known to all one call later, so that none waits for it."""

    def __init__(self) -> None:
        self._before: Any = None

    def __call__(self, flag: bool) -> bool:
        """Takes a flag; returns that of the call before, that of this one in a single process."""
        import jax

        from flaxcifar.devices import parallel

        if jax.process_count() == 1:
            return flag
        before = self._before
        self._before = parallel.any_process(flag and jax.process_index() == 0)
        return before is not None and bool(before)

    def forget(self) -> None:
        """Drops what was said last."""
        self._before = None
