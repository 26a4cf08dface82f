"""Fault injection: interrupts runs in many ways and counts what was lost.

    python tests/faults.py --kills 200 --output benchmarks/results/faults.jsonl

Every run is a process forked from one that has imported everything. It trains a small network and
saves every second step. After a fault it is restarted until it ends, and then compared to the bit
with an undisturbed run.
"""

import argparse
import collections
import contextlib
import datetime
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax
import tiny

from flaxcifar import data, ops
from flaxcifar.cli.command import run_command
from flaxcifar.cli.verify_resume import differences
from flaxcifar.data.augment import AUGMENTATIONS
from flaxcifar.data.sources import SOURCES
from flaxcifar.errors import UserError
from flaxcifar.models import MODELS
from flaxcifar.training import loop
from flaxcifar.workdir import names
from flaxcifar.workdir.checkpoints import Checkpoints
from flaxcifar.workdir.step_folders import StepFolders

CHANGES = {
    "model": dict(name="one_stage"),
    "augment": (dict(name="horizontal_flip"),),
    "total_epochs": 2,
    "ops.convolution": "jax",
    "data.pipeline": "resident",
    "checkpoint.every_steps": 2,
    "early_stopping.patience": 5,
    "schedule": dict(name="reduce_on_plateau", patience=1, factor=0.5, min_delta=0.5),
    "optimizer": dict(name="sgd", learning_rate=0.05, momentum=0.9),
    "ema_decay": 0.9,
}

# So that the forked runs need not import them.
for registry in (AUGMENTATIONS, SOURCES, MODELS):
    registry.names()

Prepare = Callable[[], None]


def config_of(**changes):
    """Returns the config of a run on 96 images."""
    folder = Path(os.environ["FLAXCIFAR_TEST_CACHE"], "faults")
    return tiny.config(**CHANGES, **{"data.dir": str(folder)} | changes)


def nothing() -> None:
    """Prepares nothing."""


def log_of(workdir: Path) -> Path:
    """Returns the file of what the runs of a workdir print, outside their disk."""
    return Path(os.environ["FLAXCIFAR_TEST_CACHE"]).parent / f"{workdir.name}.log"


def start(workdir: Path, prepare: Prepare = nothing, **changes) -> int:
    """Starts a run in a process of its own and returns its number; what it prints is logged."""
    process = os.fork()
    if process:
        return process
    with log_of(workdir).open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    code = 1
    try:
        ops.self_test = lambda backend, dtype: None  # half of the start-up time
        prepare()
        run_command(lambda _: loop.train_and_evaluate(config_of(**changes), workdir))
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def end(process: int) -> int:
    """Returns the exit code of a run, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def run(workdir: Path, prepare: Prepare = nothing, **changes) -> int:
    """Returns the exit code of a run that is left alone."""
    return end(start(workdir, prepare, **changes))


def apart(function: Callable, *arguments):
    """Returns what a function returns in a process of its own, as JSON.

    The process that forks must not start JAX itself.
    """
    read, write = os.pipe()
    process = os.fork()
    if not process:
        with os.fdopen(write, "w") as pipe:
            json.dump(function(*arguments), pipe)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    end(process)
    return json.loads(text)


def newest(workdir: Path) -> dict | None:
    """Returns the record of the checkpoint that a run would go on from, or None."""
    with Checkpoints(workdir) as checkpoints, open(os.devnull, "w") as quiet:
        with contextlib.redirect_stdout(quiet), contextlib.suppress(UserError):
            return checkpoints.restore_latest(None)[1]


def signalled(workdir: Path, number: int, seconds: float) -> int:
    """Returns the exit code of a run that gets a signal after so many seconds, if it lasts."""
    process = start(workdir)
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)
    return end(process)


def dying(operation: int) -> Prepare:
    """Returns what makes a run kill itself at its n-th operation on the files of a checkpoint."""

    def prepare() -> None:
        left = operation

        def counted(function):
            def call(*args, **kwargs):
                nonlocal left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)

            return call

        os.rename = counted(os.rename)
        os.fsync = counted(os.fsync)
        shutil.rmtree = counted(shutil.rmtree)
        os.replace = counted(os.replace)

    return prepare


def forget(workdirs: dict[str, str]) -> None:
    """Zeroes a part of the state in the newest checkpoint of each workdir; {part: workdir}."""
    for part, workdir in workdirs.items():
        folders = StepFolders(Path(workdir) / names.LATEST)
        step = folders.steps()[0]
        with Checkpoints(workdir) as checkpoints:
            arrays, record = checkpoints.restore_latest(None)
            lost = [path for path in arrays if path.startswith(f"state.{part}")]
            assert lost, arrays.keys()
            folders.remove(step)
            checkpoints.save_latest(step, arrays | {p: arrays[p] * 0 for p in lost}, record)


VALUES = """ 0 -1 7 1e30 nan inf None True false 'x' () (1,) [1,2 {'name':'sgd'} ('a','frozen')
    (('stage1','frozen'),) (('(','frozen'),) (('stage1',-1),) 99999999999999999999 ../.. \\x00 é
    cifar10 float16 bfloat16 adam cosine vgg16 resident max {} 0.5 16 3.5 ({'name':'cutout'},)
    {'name':'tiny','width':3} step step_decay muon lion loss rollback mirror ((50,4),) ((50,0.5),)
    {'name':'speednet'} (('head',{'name':'sgd','learning_rate':1}),) (('head',{'name':'x'}),)
    (('head',{'name':'sgd','learning_rate':'a','schedule':{'name':'linear'}}),)""".split()


def mutated_configs(count: int, seed: int) -> list[str]:
    """Returns what ended otherwise than well or in a UserError, of configs changed at random."""
    from flaxcifar import config
    from flaxcifar.config import default_config, to_json
    from flaxcifar.training import experiment

    # Mutated names and folders must not download or write anything.
    data.load = lambda settings: tiny.dataset(train=96, test=20)
    ops.self_test = lambda backend, dtype: None
    generator, bad = random.Random(seed), []

    def keys(section, prefix=""):
        for key, value in section.items():
            yield prefix + key
            if isinstance(value, dict):
                yield from keys(value, f"{prefix}{key}.")

    known = [*keys(to_json(default_config())), "optimizer.momentum", "schedule.epochs", "model.x"]
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(
            "import sys\nsys.path.insert(0, 'tests')\nimport tiny\n"
            "def get_config():\n    return tiny.config()\n"
        )
        file.flush()
        for _ in range(count):
            overrides = []
            for _ in range(generator.randint(1, 3)):
                key = generator.choice(known)
                if generator.random() < 0.1:
                    at = generator.randrange(len(key))
                    key = key[:at] + key[at + 1 :]
                overrides.append(f"--config.{key}={generator.choice(VALUES).strip()}")
            try:
                experiment.build(config.load(file.name, overrides))
            except UserError as error:
                if "\n" in str(error):
                    bad.append(f"{overrides}: {error}")
            except BaseException as error:
                bad.append(f"{overrides}: {type(error).__name__}: {error}"[:500])
    return bad


def resources(saves: int) -> dict[str, tuple[int, int]]:
    """Returns what a process has after a fifth of so many saves of 4 MB, and after all of them."""
    import numpy as np

    def now() -> dict[str, int]:
        lines = Path("/proc/self/status").read_text().splitlines()
        status = {key: words.split() for key, _, words in (line.partition(":") for line in lines)}
        return {
            "memory, kB": int(status["VmRSS"][0]),
            "threads": int(status["Threads"][0]),
            "open files": len(os.listdir("/proc/self/fd")),
        }

    found = []
    with tempfile.TemporaryDirectory() as root, Checkpoints(root) as checkpoints:
        for step in range(1, saves + 1):
            state = {"x": np.full(1_000_000, step, np.float32)}
            checkpoints.save_latest(step, state, {"best_step": 0})
            if step in (saves // 5, saves):
                checkpoints.wait()
                found.append(now())
    return {key: (found[0][key], found[1][key]) for key in found[0]}


class Harness:
    """Counts faults and what became of them."""

    def __init__(self, root: Path, seed: int):
        self.root, self.random = root, random.Random(seed)
        self.count: collections.Counter = collections.Counter()
        self.complaints: list[str] = []
        self.straight = root / "straight"
        tiny.write(Path(os.environ["FLAXCIFAR_TEST_CACHE"], "faults"), train=96, test=20)
        if run(self.straight):
            raise SystemExit(log_of(self.straight).read_text())
        began = time.monotonic()
        run(root / "timed")  # without compilation
        self.seconds = time.monotonic() - began
        self.runs = 0

    def fresh(self) -> Path:
        """Returns the place of another run."""
        self.runs += 1
        return self.root / f"run{self.runs}"

    def expect(self, what: str, good: bool, words: str) -> None:
        """Counts `what` as tried and, where it went well, as survived."""
        self.count[f"{what}, tried"] += 1
        self.count[f"{what}, survived"] += good
        if not good:
            self.complaints.append(f"{what}: {words}")

    def finish(self, what: str, workdir: Path, faults: int) -> None:
        """Lets a run go on to its end and compares it with the one that was left alone."""
        code = run(workdir)
        found = ["it did not end well"] if code else apart(differences, self.straight, workdir)
        for _ in range(faults):
            self.expect(what, not found, f"{workdir.name}, code {code}: {found[:1]}")
        self.count["states lost"] += bool(found)
        log = log_of(workdir).read_text()
        self.count["tracebacks"] += log.count("Traceback")
        if "Traceback" in log:
            self.complaints.append(log[-2000:])
        shutil.rmtree(workdir)

    def kills_at_random(self, kills: int) -> None:
        """Kills runs, several times each, at moments from their start to their end."""
        done = 0
        while done < kills:
            workdir, faults = self.fresh(), 0
            while faults < 4 and done + faults < kills:
                if signalled(workdir, signal.SIGKILL, self.random.uniform(0, self.seconds)) == 0:
                    break
                faults += 1
            self.finish("kill -9 at a random moment", workdir, faults)
            done += faults

    def kills_at_operations(self, kills: int) -> None:
        """Kills a run between the write, the rename and the deletion of checkpoints."""
        workdir, faults, done, number = self.fresh(), 0, 0, 0
        while done < kills:
            # Further and further into a run; what was saved in between moves the place, too.
            if run(workdir, dying(number % 60)) == 0:
                self.finish("kill -9 within a save", workdir, faults)
                workdir, faults = self.fresh(), 0
            else:
                faults, done = faults + 1, done + 1
            number += 1
        self.finish("kill -9 within a save", workdir, faults)

    def signals(self, count: int) -> None:
        """Sends SIGTERM and SIGINT from the start to the end of runs."""
        for n in range(count):
            number = (signal.SIGTERM, signal.SIGINT)[n % 2]
            workdir = self.fresh()
            code = signalled(workdir, number, self.seconds * n / count)
            # Before training, where there is nothing to save, SIGTERM ends the process by itself.
            good = code in (128 + number, -number) or (code == 0 and n >= count / 2)
            self.expect("exit code of a signal", good, f"{number} ended with {code}")
            self.finish("SIGTERM or SIGINT", workdir, 1)

    def damage(self, every: int) -> None:
        """Damages every n-th file of the newest checkpoint in three ways."""
        steps = StepFolders(self.straight / names.LATEST).steps()
        best_step = apart(newest, self.straight)["best_step"]
        for kind, step in (("latest", steps[0]), ("best", best_step)):
            folder = Path("checkpoints", kind, str(step))
            files = sorted(p for p in (self.straight / folder).rglob("*") if p.is_file())
            for file in files[::every]:
                for how in ("truncated", "flipped", "deleted"):
                    self._damage(folder / file.relative_to(self.straight / folder), how)

    def _damage(self, name: Path, how: str) -> None:
        workdir = self.fresh()
        shutil.copytree(self.straight, workdir)
        content = bytearray((workdir / name).read_bytes())
        if how == "deleted" or not content:
            (workdir / name).unlink()
        elif how == "truncated":
            (workdir / name).write_bytes(content[: len(content) // 2])
        else:
            content[self.random.randrange(len(content))] ^= 1 << self.random.randrange(8)
            (workdir / name).write_bytes(content)
        found = apart(newest, workdir)
        older = found is not None and found["epoch"] < CHANGES["total_epochs"]
        # A run's best may be its first epoch's, which both latest checkpoints name: then none is
        # whole, and that is said.
        refused = found is None and name.parts[1] == "best"
        self.expect("damaged file", older or refused, f"{name} {how}")
        self.count["wrong restores"] += not (older or refused)
        shutil.rmtree(workdir)

    def full_disk(self) -> None:
        """Fills a small disk within an epoch, and before a line of metrics.jsonl is due."""
        disk = self.root / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(disk)]
        if subprocess.run(mount, capture_output=True).returncode:
            self.count["full disk, not tried: it cannot be mounted here"] += 1
            return
        ballast = disk / "ballast"

        def filling(when: int) -> Prepare:
            def prepare() -> None:
                save = Checkpoints.save_latest

                def save_and_fill(self, step, arrays, record):
                    save(self, step, arrays, record)
                    if step == when:
                        self.wait()
                        with contextlib.suppress(OSError), ballast.open("wb", 0) as file:
                            while True:
                                file.write(bytes(4096))

                Checkpoints.save_latest = save_and_fill

            return prepare

        try:
            for when in (2, 4):  # 4 is the last step of the first epoch
                workdir = disk / f"full{when}"
                code = run(workdir, filling(when))
                self.expect("full disk", code == 1, f"ended with {code}")
                whole = StepFolders(workdir / names.LATEST)
                intact = whole.damage(when) is None
                self.expect("checkpoint before the full disk", intact, "is not whole")
                ballast.unlink()
                self.finish("run after a full disk", workdir, 1)
        finally:
            subprocess.run(["umount", str(disk)], check=True)

    def many_saves(self, saves: int) -> None:
        """Saves over and over in one process and looks at what it keeps."""
        for what, (early, late) in apart(resources, saves).items():
            # Pools may start a thread late; what leaks does so with every save.
            most = early * 1.02 + (4000 if "memory" in what else 3)
            self.expect(f"{saves} saves, {what}", late <= most, f"{early} became {late}")

    def two_at_once(self) -> None:
        """Starts two runs in one workdir."""
        workdir = self.fresh()
        codes = sorted(map(end, [start(workdir), start(workdir)]))
        self.expect("two runs in one workdir", codes == [0, 2], f"ended with {codes}")
        self.finish("two runs in one workdir", workdir, 1)

    def configs(self, count: int) -> None:
        """Changes configs at random."""
        bad = apart(mutated_configs, count, 0)
        self.count["mutated config, tried"] += count
        self.count["mutated config, survived"] += count - len(bad)
        self.count["tracebacks"] += len(bad)
        self.complaints += bad

    def itself(self) -> None:
        """Zeroes parts of the state in a checkpoint: it must not go unnoticed."""
        # The step is what all random numbers are made of.
        parts = ("opt_state", "batch_stats", "step", "ema")
        begun = self.fresh()
        run(begun, total_steps=5)
        workdirs = {part: str(shutil.copytree(begun, self.fresh())) for part in parts}
        apart(forget, workdirs)
        for part, workdir in workdirs.items():
            workdir = Path(workdir)
            code = run(workdir)
            noticed = bool(code) or bool(apart(differences, self.straight, workdir))
            self.expect(f"{part} left out is noticed", noticed, "it went unnoticed")


def main() -> None:
    """Runs everything and writes a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="half at random, half within saves")
    parser.add_argument("--signals", type=int, default=20)
    parser.add_argument("--every", type=int, default=1, help="n-th file is damaged")
    parser.add_argument("--configs", type=int, default=1000)
    parser.add_argument("--saves", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    flags = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="flaxcifar-faults-") as root:
        jax.config.update("jax_compilation_cache_dir", f"{root}/compiled")
        os.environ["FLAXCIFAR_TEST_CACHE"] = f"{root}/data"
        harness = Harness(Path(root), flags.seed)
        harness.kills_at_random(flags.kills - flags.kills // 2)
        harness.kills_at_operations(flags.kills // 2)
        harness.signals(flags.signals)
        harness.full_disk()
        harness.many_saves(flags.saves)
        harness.two_at_once()
        harness.itself()
        harness.damage(flags.every)
        harness.configs(flags.configs)
    row = dict(sorted(harness.count.items())) | {
        "seed": flags.seed,
        "seconds": round(time.monotonic() - began, 1),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    print(json.dumps(row, indent=1))
    for complaint in harness.complaints:
        print(complaint)
    if flags.output:
        with flags.output.open("a") as file:
            file.write(json.dumps(row) + "\n")
    sys.exit(bool(harness.complaints))


if __name__ == "__main__":
    main()
