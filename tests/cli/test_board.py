import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from flaxcifar.cli import board
from flaxcifar.errors import UserError


@pytest.fixture
def runs(tmp_path):
    for name in ("one", "two"):
        (tmp_path / "runs" / name / "tensorboard").mkdir(parents=True)
    (tmp_path / "runs/one/summary.json").write_text("{}")
    (tmp_path / "runs/two/metrics.jsonl").write_text("{}\n{}\n")
    return tmp_path / "runs"


def test_runs_are_found_in_folders_of_them_and_by_name(runs):
    both = [runs / "one", runs / "two"]
    assert board.find_runs([runs]) == both
    assert board.find_runs(both[1:]) == both[1:]
    with pytest.raises(UserError, match="no folder"):
        board.find_runs([runs / "three"])
    with pytest.raises(UserError, match="holds no run"):
        board.find_runs([runs / "one" / "tensorboard"])


def test_what_has_not_ended_is_named(runs):
    (line,) = board.remarks(board.find_runs([runs]))
    assert line == f"{runs / 'two'} has not ended: 2 epochs so far"


def test_only_notes_of_the_dead_are_removed(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for name, process in (("dead", gone.pid), ("alive", os.getpid())):
        (tmp_path / f"pid-{name}.info").write_text(json.dumps({"pid": process}))
    (tmp_path / "pid-broken.info").write_text("{")
    assert board.remove_stale_notes(tmp_path) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pid-alive.info", "pid-broken.info"]


def test_a_taken_port_is_passed_over_or_named():
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is taken"):
            board.free_port(port)
    assert board.free_port(None) in board._PORTS


FAKE = """
import fcntl, pathlib, time
file = open("lock", "w")
fcntl.flock(file, fcntl.LOCK_EX)
pathlib.Path("ready").touch()
time.sleep(60)
"""


def wait_for(condition):
    for _ in range(300):
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_tensorboard_ends_with_the_command_whatever_ends_that(runs, tmp_path, number):
    package = tmp_path / "tensorboard"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "main.py").write_text(FAKE)
    command = [sys.executable, "-m", "flaxcifar", "board", str(runs)]

    def ended():
        """Whether TensorBoard has given its lock back; its number may stay as that of a zombie."""
        with (tmp_path / "lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE) as process:
        try:
            assert wait_for((tmp_path / "ready").exists) and not ended()
            process.send_signal(number)
            process.communicate(timeout=30)
            assert wait_for(ended)
        finally:
            process.kill()


def test_tensorboard_answers_until_it_is_interrupted(runs):
    port = board.free_port(None)
    command = [sys.executable, "-m", "flaxcifar", "board", str(runs), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            for _ in range(300):
                try:
                    page = urllib.request.urlopen(f"http://localhost:{port}/", timeout=5).read()
                    break
                except OSError:
                    time.sleep(0.2)
            assert b"TensorBoard" in page
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0
    assert f"2 runs: http://localhost:{port}/" in output
