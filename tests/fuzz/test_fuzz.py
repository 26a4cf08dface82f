"""Random input through the commands: python -m pytest -m fuzz -n 0 tests/fuzz

Every example must end with a documented exit code and one line, in bounded time and memory, and
must leave the files of an earlier run alone. FUZZ_SEED chooses the examples.
"""

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys

import pytest
import quick
from hypothesis import HealthCheck, event, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from flaxcifar import api
from flaxcifar.cli import evaluate, predict, report, train
from flaxcifar.cli.command import run_command
from flaxcifar.config.knobs import KNOBS
from flaxcifar.training import loop

SEED = int(os.environ.get("FUZZ_SEED", "0"))
SECONDS = 120  # for one example; most take far less
GIGABYTES = 3.0  # that all examples of a test may add
CONFIG = "import quick\n\n\ndef get_config():\n    return quick.config()\n"

pytestmark = [pytest.mark.fuzz, pytest.mark.filterwarnings("ignore")]


def fuzzed(examples):
    """Decorates a test with hypothesis: `examples` of them, always the same for a seed."""
    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    limits = settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=checks
    )
    return lambda test: limits(seed(SEED)(test))


class Built(BaseException):
    """A config was accepted and its experiment built."""


@contextlib.contextmanager
def bounded():
    """Context manager: fails after SECONDS."""

    def late(*_):
        pytest.fail(f"took more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def little_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    assert grown < GIGABYTES


def call(main, arguments, monkeypatch, capsys):
    """Runs a command in this process; returns its exit code after checking what it printed."""
    code = 0
    with monkeypatch.context() as patch, bounded():
        patch.setattr(sys, "argv", ["flaxcifar", *map(str, arguments)])
        try:
            run_command(main)
        except Built:
            pass
        except SystemExit as end:
            code = end.code
    out, err = capsys.readouterr()
    assert code in (0, 1, 2), (code, err)
    assert "Traceback" not in out + err
    if code:
        lines = [line for line in err.splitlines() if line.startswith("flaxcifar: ")]
        assert len(lines) == 1, err
    return code


def contents(folder, *, without=()):
    """Returns the bytes of every file of a folder by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in without
    }


ODD = [
    "", " ", "0", "-1", "1", "2", "3", "1.5", "1e18", "1e308", "-1e308", "nan", "inf", "None",
    "True", "[]", "()", "{}", "'x'", "x", "../..", "/dev/null", "(1, 2, 3)", "((1, 2),)",
    "((1, 'frozen'),)", "(('stage1', 'frozen'),)", "dict(name='x')", "{'name': 'x'}",
    "{'name': ['x']}", "{'name': None}", "{1: 2}", "{'name': 'adam', 'learning_rate': 0.1}",
    "{'name': 'sgd', 'learning_rate': -1}", "{'name': 'cosine', 'warmup_epochs': 1}",
    "{'name': 'pad_crop', 'padding': 2}", "({'name': 'pad_crop', 'padding': 2},)",
    "({'name': 'cutout', 'size': 'big'},)", "{'name': 'tiny'}", "{'name': 'one_stage'}",
    "{'name': 'crcv', 'size': 'narrow'}", "{'name': 'crcv', 'size': 3}", "ä", "\u2028", "9" * 400,
    "[" * 300, "__import__('os').abort()", "lambda: 0", "1 if", "host", "resident", "auto", "xla",
    "bfloat16", "float32", "unit", "scalar", "folder", "squares", "cifar10", "mirror",
]  # fmt: skip
SUBKEYS = [
    "optimizer.name", "optimizer.learning_rate", "optimizer.momentum", "optimizer.nesterov",
    "optimizer.weight_decay", "schedule.name", "schedule.warmup_steps", "schedule.warmup_epochs",
    "model.name", "model.width", "model.size", "model.dropout", "proxy.name", "no_such_key",
    "data", "data.nothing", "optimizer.", "..", "",
]  # fmt: skip

keys = st.sampled_from([*KNOBS, *SUBKEYS])
values = st.one_of(
    st.sampled_from(ODD),
    st.integers(-(2**70), 2**70).map(str),
    st.integers(-3, 300).map(str),
    st.floats().map(repr),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12),
)
overrides = st.lists(
    st.tuples(keys, values).map(lambda pair: f"--config.{pair[0]}={pair[1]}"), max_size=4
)
flags = st.lists(
    st.sampled_from(
        ["--strict", "--seeds=0", "--seeds=x", "--allow_change=", "--allow_change=x", "--sweep=",
         "--sweep=batch_size=", "--sweep=x=1,2", "--num_processes=2", "--nonsense", "word"]
    ),
    max_size=1,
)  # fmt: skip


@pytest.fixture
def earlier(tmp_path):
    """A finished run, and a config file beside it."""
    (tmp_path / "config.py").write_text(CONFIG)
    api.train(quick.config(), tmp_path / "earlier")
    return tmp_path / "earlier"


@fuzzed(1000)
@given(overrides, flags)
def test_configs_and_flags(earlier, monkeypatch, capsys, overrides, flags):
    place, before = earlier.parent, contents(earlier)

    def built(*_):
        raise Built

    monkeypatch.setattr(loop, "make_session", built)
    monkeypatch.chdir(place)
    arguments = ["--config", "config.py", "--workdir", "new", *flags, *overrides]
    code = call(train.main, arguments, monkeypatch, capsys)
    event(f"exit code {code}")
    if code == 2 and not any(flag.startswith("--s") for flag in flags):
        assert not (place / "new/checkpoints").exists()
    shutil.rmtree(place / "new", ignore_errors=True)
    assert contents(earlier) == before


@fuzzed(50)
@given(overrides)
def test_whole_processes(earlier, overrides):
    place, before = earlier.parent, contents(earlier)
    command = [sys.executable, "-m", "flaxcifar.main", "--config", "config.py", "--workdir", "new"]
    done = subprocess.run(
        [*command, "--config.total_steps=2", *overrides],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    shutil.rmtree(place / "new", ignore_errors=True)
    assert done.returncode in (0, 1, 2), done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert contents(earlier) == before


def damage(path, kind, chance):
    """Damages a file in one of the ways that disks, editors and users have."""
    data = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "a folder":
        path.unlink()
        path.mkdir()
    elif kind == "another type":
        odd = [None, [], {}, 3, "x", [[]], {"a": 1}, [1, 2], {"history": 3}, {"step": "x"}]
        path.write_text(json.dumps(chance.choice(odd)))
    else:
        place = chance.randrange(len(data) + 1)
        path.write_bytes(
            {
                "empty": b"",
                "cut off": data[:place],
                "longer": data + chance.randbytes(7),
                "noise": chance.randbytes(len(data)),
                "not UTF-8": data[:place] + b"\xff\xfe\x80" + data[place:],
                "a flipped bit": data[:place]
                + bytes([byte ^ 1 << chance.randrange(8) for byte in data[place : place + 1]])
                + data[place + 1 :],
                "a changed digit": bytes(
                    ord("9") if 48 <= byte <= 57 and chance.random() < 0.2 else byte
                    for byte in data
                ),
            }[kind]
        )


KINDS = [
    "missing", "a folder", "another type", "empty", "cut off", "longer", "noise", "not UTF-8",
    "a flipped bit", "a changed digit",
]  # fmt: skip


@fuzzed(300)
@given(
    st.sampled_from(KINDS),
    st.integers(0, 2**32),
    st.sampled_from(["resume", "extend", "evaluate", "predict", "report"]),
)
def test_damaged_workdirs(earlier, monkeypatch, capsys, kind, number, action):
    place, before, chance = earlier.parent, contents(earlier), random.Random(number)
    monkeypatch.chdir(place)
    workdir = place / "damaged"
    shutil.rmtree(workdir, ignore_errors=True)
    shutil.copytree(earlier, workdir)
    files = [path for path in sorted(workdir.rglob("*")) if path.is_file()]
    damage(chance.choice(files), kind, chance)
    damaged = contents(workdir)
    Image.new("RGB", (8, 8)).save(place / "image.png")
    resume = ["--config", "config.py", "--workdir", "damaged"]
    main, arguments = {
        "resume": (train.main, resume),
        "extend": (train.main, [*resume, "--config.total_epochs=3"]),
        "evaluate": (evaluate.main, ["--workdir", "damaged"]),
        "predict": (predict.main, ["--workdir", "damaged", "image.png"]),
        "report": (report.main, ["--workdir", "damaged"]),
    }[action]
    code = call(main, arguments, monkeypatch, capsys)
    event(f"{action}: exit code {code}")
    if action in ("evaluate", "predict"):
        assert contents(workdir) == damaged
    assert contents(earlier) == before


@fuzzed(60)
@given(st.sampled_from([*KINDS, "a pipe", "a link", "a word"]), st.integers(0, 2**32))
def test_image_folders(earlier, monkeypatch, capsys, kind, number):
    place, chance = earlier.parent, random.Random(number)
    monkeypatch.chdir(place)
    images = place / "images"
    shutil.rmtree(images, ignore_errors=True)
    for split in ("train", "test"):
        for name in ("cat", "dog", "ä b"):
            (images / split / name).mkdir(parents=True)
            for n in range(4):
                picture = Image.frombytes("RGB", (9, 8), chance.randbytes(9 * 8 * 3))
                picture.save(images / split / name / f"{n}.{chance.choice(['png', 'jpg', 'bmp'])}")
    victim = chance.choice([path for path in sorted(images.rglob("*")) if path.is_file()])
    if kind == "a pipe":
        victim.unlink()
        os.mkfifo(victim)
    elif kind == "a link":
        victim.unlink()
        victim.symlink_to(chance.choice(["/dev/zero", ".", "..", victim.name, "nowhere"]))
    elif kind == "a word":
        victim.with_name("readme.txt").write_text("words")
    else:
        damage(victim, kind, chance)

    def built(*_):
        raise Built

    with monkeypatch.context() as patch:
        patch.setattr(loop, "make_session", built)
        arguments = ["--config", "config.py", "--workdir", "new", "--config.data.name=folder"]
        arguments += ["--config.data.dir=images", "--config.batch_size=8"]
        arguments += [f"--config.data.cache_dir={place / 'cache'}"]
        code = call(train.main, arguments, monkeypatch, capsys)
    event(f"train: exit code {code}")
    shutil.rmtree(place / "new", ignore_errors=True)
    code = call(predict.main, ["--workdir", "earlier", "images"], monkeypatch, capsys)
    event(f"predict: exit code {code}")
