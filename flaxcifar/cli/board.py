"""Shows runs in TensorBoard on a free port.

    flaxcifar board                       every run under runs/
    flaxcifar board runs/first runs/second

Names the runs in progress. Removes the notes that killed TensorBoards leave
behind, which notebooks mistake for running ones.
"""

import ctypes
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from flaxcifar import console
from flaxcifar.cli.command import Parser
from flaxcifar.errors import RunError, UserError
from flaxcifar.workdir import names

_PORTS = range(6006, 6106)
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def find_runs(directories: Sequence[Path]) -> list[Path]:
    """Returns the workdirs in or under the directories.

    Raises:
      UserError: a directory does not exist or holds no run.
    """
    found: list[Path] = []
    for directory in directories:
        if not directory.is_dir():
            raise UserError(f"there is no folder {str(directory)!r}")
        runs = sorted(path.parent for path in directory.rglob(names.TENSORBOARD) if path.is_dir())
        if not runs:
            raise UserError(
                f"{directory} holds no run: it has no folder {names.TENSORBOARD}/ at any depth"
            )
        found += runs
    return found


def remarks(runs: Sequence[Path]) -> Iterator[str]:
    """Yields a line per run in progress."""
    for run in runs:
        if not (run / names.SUMMARY).exists():
            rows = run / names.METRICS
            epochs = len(rows.read_bytes().splitlines()) if rows.exists() else 0
            yield f"{run} has not ended: {epochs} epochs so far"


def remove_stale_notes(folder: Path) -> int:
    """Removes the notes of dead TensorBoards from `folder`; returns their number.

    TensorBoard writes a file per running instance, which a killed instance leaves behind.
    """
    removed = 0
    for note in folder.glob("pid-*.info"):
        try:
            process = json.loads(note.read_text())["pid"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if not _alive(process):
            note.unlink(missing_ok=True)
            removed += 1
    return removed


def _alive(process: int) -> bool:
    if sys.platform == "win32":
        return True  # os.kill would send it a Ctrl-C
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True


def free_port(wanted: int | None) -> int:
    """Returns `wanted`, or by default the first free port from TensorBoard's usual port.

    Raises:
      UserError: no port is free.
    """
    for port in [wanted] if wanted is not None else _PORTS:
        with socket.socket() as probe:
            try:
                probe.bind(("localhost", port))
                return port
            except (OSError, OverflowError):
                continue
    where = f"port {wanted} is" if wanted is not None else f"ports {_PORTS[0]} to {_PORTS[-1]} are"
    raise UserError(f"{where} taken or not allowed: choose another --port")


def _ending_with(parent: int) -> Callable[[], None] | None:
    """Returns what a child process calls to end when its parent does, even by SIGKILL.

    Only Linux can do that; elsewhere returns None.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def end_with_parent() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it has ended already
            os._exit(1)

    return end_with_parent


def parser() -> Parser:
    """Returns the flags."""
    result = Parser("board", __doc__, "[DIR ...] [--port N]")
    words = "workdirs, or folders with workdirs; default: runs"
    result.add_argument(
        "directories", nargs="*", type=Path, default=[Path("runs")], metavar="DIR", help=words
    )
    words = "default: the first free port from 6006"
    result.add_argument("--port", type=int, metavar="N", help=words)
    return result


def main(argv: list[str]) -> None:
    """Runs TensorBoard until it is interrupted."""
    flags = parser().parse_args(argv)
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError("TensorBoard is not installed: pip install -e '.[board]'")
    runs = find_runs(flags.directories)
    port = free_port(flags.port)
    for line in remarks(runs):
        console.say(line)
    removed = remove_stale_notes(Path(tempfile.gettempdir()) / ".tensorboard-info")
    if removed:
        console.say(f"removed {removed} notes of dead TensorBoards")
    console.say(f"{len(runs)} runs: http://localhost:{port}/ (Ctrl-C to stop)")
    command = [sys.executable, "-m", "tensorboard.main", "--port", str(port)]
    if len(flags.directories) == 1:
        command += ["--logdir", str(flags.directories[0])]
    else:
        named = (f"{path.resolve().name}:{path}" for path in flags.directories)
        command += ["--logdir_spec", ",".join(named)]
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=_ending_with(os.getpid()),
    ) as process:
        try:
            _, errors = process.communicate()
        except KeyboardInterrupt:
            process.terminate()
            return
    if process.returncode:
        last = errors.decode(errors="replace").strip().splitlines()[-1:]
        raise RunError(f"TensorBoard ended: {''.join(last)}")
