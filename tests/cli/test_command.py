"""The common start-up of all commands."""

import importlib.util
import os
import subprocess
import sys

import pytest

from flaxcifar.cli import command


@pytest.mark.parametrize("tpu", [False, True])
def test_libtpu_is_silenced_without_a_tpu(monkeypatch, tpu):
    monkeypatch.setattr(command, "has_chips", lambda: tpu)
    monkeypatch.setattr(os, "environ", {})
    command.run_command(lambda _: None)
    assert ("TPU_WORKER_HOSTNAMES" in os.environ) is not tpu


@pytest.mark.skipif(
    command.has_chips() or importlib.util.find_spec("libtpu") is None, reason="libtpu, but no TPU"
)
def test_libtpu_prints_nothing_without_a_tpu():
    code = (
        "import jax\n"
        "from flaxcifar.cli.command import run_command\n"
        "run_command(lambda _: print(jax.devices()[0].platform))"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "TPU_"))}
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, capture_output=True, text=True, env=environment, check=True)
    assert (done.stdout, done.stderr) == ("cpu\n", "")
