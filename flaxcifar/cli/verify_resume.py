"""Checks that killed runs resume exactly.

    flaxcifar verify_resume --config quickstart --kills 10

Trains the config twice: once without interruption, and once killing the process
(SIGKILL) at random moments and resuming. Both must end with bit-identical
parameters, statistics, optimizer state, metrics and summary. If a run ends
before it was killed often enough, further runs are killed.
"""

import contextlib
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flaxcifar import config, console
from flaxcifar.cli.command import Parser
from flaxcifar.errors import RunError, UserError
from flaxcifar.workdir import names


def parser() -> Parser:
    """Returns the flags; unknown arguments are values of config keys."""
    result = Parser("verify_resume", __doc__, "--config CONFIG [--config.KEY=VALUE ...]")
    add = result.add_argument
    result.add_config(required=True)
    add("--steps", type=int, default=40, metavar="N", help="length of the run; default 40")
    add("--kills", type=int, default=5, metavar="N", help="default 5")
    add("--seed", type=int, default=0, metavar="N", help="random seed of the moments of the kills")
    add("--workdir", metavar="DIR", help="keep the runs, as straight/, killed1/, ...")
    return result


def main(argv: list[str]) -> None:
    """Trains, kills, resumes and compares.

    Raises:
      RunError: the runs differ, or one failed.
    """
    flags, overrides = parser().parse_known_args(argv)
    if flags.steps < 1 or flags.kills < 1:
        raise UserError("--steps and --kills must be at least 1")
    config.load(flags.config, overrides)
    command = [sys.executable, "-m", "flaxcifar.main", "--config", flags.config, *overrides]
    command += [
        f"--config.total_steps={flags.steps}",
        "--config.report=False",
        f"--config.checkpoint.every_steps={max(1, flags.steps // 10)}",
    ]
    with contextlib.ExitStack() as stack:
        workdir = Path(flags.workdir or stack.enter_context(tempfile.TemporaryDirectory()))
        straight = workdir / "straight"
        if straight.exists():
            raise UserError(f"{straight} exists: choose another --workdir")
        run_to_the_end([*command, "--workdir", str(straight)])
        seconds = time.time() - began(straight)
        console.say(f"uninterrupted: {flags.steps} steps in {seconds:.1f} s with compilation")
        moments = random.Random(flags.seed)
        runs = kills = 0
        while kills < flags.kills:
            runs += 1
            killed = workdir / f"killed{runs}"
            kills += kill_often(command, killed, flags.kills - kills, seconds, moments)
            run_to_the_end([*command, "--workdir", str(killed)])
            different = differences(straight, killed)
            if different:
                raise RunError(f"after {kills} kills the run differs: first, {different[0]}")
            seconds /= 2  # kill the next run sooner, in case this one ended first
        console.say(
            f"exact: bit-identical after {kills} kills; SHA-256 of the state "
            f"{contents(straight)['state']}"
        )


def kill_often(
    command: Sequence[str], workdir: Path, kills: int, seconds: float, moments: random.Random
) -> int:
    """Kills a run repeatedly, each time at most `seconds` after its start, until it ends.

    Returns:
      The number of kills, at most `kills`.
    """
    for done in range(kills):
        # The product favours early moments, before the run ends.
        wait = moments.uniform(0, seconds) * moments.random()
        if not kill_after([*command, "--workdir", str(workdir)], workdir, wait):
            return done
        console.say(f"killed {done + 1} of {kills}; {last_step(workdir)}")
    return kills


def run_to_the_end(command: Sequence[str]) -> None:
    """Runs a command; raises RunError with its last line of stderr if it failed."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise RunError(f"the run ended with code {done.returncode}: {lines[-1]}")


def began(workdir: Path) -> float:
    """Returns the time.time() at which a run last started to compile; 0.0 if it has not yet."""
    written = workdir / names.CONFIG
    return written.stat().st_mtime if written.exists() else 0.0


def kill_after(command: Sequence[str], workdir: Path, seconds: float) -> bool:
    """Starts a run and kills it `seconds` after it started to compile.

    Returns:
      Whether it was still running then.
    """
    before = began(workdir)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and began(workdir) == before:
        time.sleep(0.02)
    try:
        process.wait(seconds)
        return False
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True


def last_step(workdir: Path) -> str:
    """Returns the step of the newest checkpoint of a run, in words."""
    from flaxcifar.workdir.step_folders import StepFolders

    steps = StepFolders(workdir / names.LATEST).steps()
    return f"the newest checkpoint is of step {steps[0]}" if steps else "no checkpoint yet"


def differences(straight: Path, killed: Path) -> list[str]:
    """Returns a line per difference between two finished runs, metrics first."""
    one, other = contents(straight), contents(killed)
    return [
        f"{name} is {one.get(name, 'missing')!s:.100} uninterrupted and "
        f"{other.get(name, 'missing')!s:.100} after kills"
        for name in {**one, **other}
        if one.get(name) != other.get(name)
    ]


def contents(workdir: Path) -> dict[str, Any]:
    """Returns what kills must not change in a finished run, by name; arrays as hashes."""
    import jax

    from flaxcifar.workdir.checkpoints import Checkpoints

    lines = (workdir / names.METRICS).read_text().splitlines()
    found: dict[str, Any] = {
        f"line {n} of {names.METRICS}": line for n, line in enumerate(lines, 1)
    }
    with Checkpoints(workdir) as checkpoints:
        kept = {"": checkpoints.restore_latest(None), "best ": checkpoints.restore_best()}
    whole = hashlib.sha256()
    for kind, restored in kept.items():
        assert restored is not None, "a finished run has both checkpoints"
        tree, record = restored
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            array = np.asarray(leaf)
            value = f"{array.dtype}{array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"
            name = kind + jax.tree_util.keystr(path, simple=True, separator=".")
            found[name] = value
            whole.update(f"{name} {value}".encode())
        found |= {f"{kind}record.{key}": value for key, value in record.items() if key != "clock"}
    summary = json.loads((workdir / names.SUMMARY).read_text())
    found |= {f"summary.{key}": value for key, value in summary.items() if key != "timing"}
    return found | {"state": whole.hexdigest()}
