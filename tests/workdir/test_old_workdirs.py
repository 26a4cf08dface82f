"""Workdirs of earlier versions stay readable."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from flaxcifar import config as configs
from flaxcifar.cli import export as cli_export
from flaxcifar.devices import parallel
from flaxcifar.inference.evaluate import evaluate
from flaxcifar.inference.trained import Trained
from flaxcifar.report import write_report
from flaxcifar.training.loop import train_and_evaluate

FIXTURE = Path(__file__).parents[1] / "fixtures" / "workdir-0.1"


@pytest.fixture(autouse=True)
def one_device(monkeypatch, tmp_path_factory):
    """The fixture's config leaves the cache's folder to the environment."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    with parallel.using(parallel.all_devices()[:1]):
        yield


@pytest.fixture
def run(tmp_path):
    return shutil.copytree(FIXTURE / "run", tmp_path / "run")


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def summary(workdir):
    return json.loads((workdir / "summary.json").read_text())


def train(workdir, epochs):
    config = configs.load(str(FIXTURE / "config.py"), [f"--config.total_epochs={epochs}"])
    train_and_evaluate(config, workdir)


def test_a_run_of_version_0_1_resumes_to_the_same_results(run, tmp_path):
    train(run, 4)
    train(tmp_path / "again", 2)
    # Another processor or version of XLA may round otherwise.
    exact = rows(tmp_path / "again") == rows(FIXTURE / "run")
    found = [*rows(run), summary(run)["test"]]
    expected = [*rows(FIXTURE / "straight"), summary(FIXTURE / "straight")["test"]]
    assert found[:2] == expected[:2]
    for row, other in zip(found, expected, strict=True):
        assert row == (other if exact else pytest.approx(other, rel=0.02))


def test_a_run_of_version_0_1_is_evaluated_exported_and_reported(run):
    trained = Trained.from_workdir(run)
    test = evaluate(trained)["single"]
    assert test == pytest.approx(summary(run)["test"], rel=1e-4)
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    assert trained.predict_proba(images).shape == (4, 100)
    cli_export.main(["--workdir", str(run), "--format", "safetensors"])
    assert (run / "export" / "model.safetensors").exists()
    assert "speednet" in write_report(run).read_text()
