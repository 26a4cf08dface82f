"""The comparison of two runs, and the command."""

import json

import jax
import pytest
import quick

from flaxcifar.cli.verify_resume import differences, main
from flaxcifar.devices import parallel
from flaxcifar.errors import UserError
from flaxcifar.training.loop import train_and_evaluate


def train(workdir, seed=0):
    with parallel.using(jax.devices()[:1]):
        train_and_evaluate(quick.config(total_epochs=1, seed=seed), workdir)
    return workdir


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return train(tmp_path_factory.mktemp("one") / "run")


def test_the_same_run_twice_and_what_is_changed_in_one(one, tmp_path):
    runs = one, train(tmp_path / "other")
    assert differences(*runs) == []
    summary = json.loads((runs[1] / "summary.json").read_text())
    summary["test"]["loss"] += 1e-9
    (runs[1] / "summary.json").write_text(json.dumps(summary))
    assert [line.split(" is ")[0] for line in differences(*runs)] == ["summary.test"]
    with (runs[1] / "metrics.jsonl").open("a") as file:
        file.write("{}\n")
    lines = differences(*runs)
    assert "line 2 of metrics.jsonl is missing uninterrupted and {} after kills" in lines


def test_another_seed_is_another_state(one, tmp_path):
    other = train(tmp_path / "other", seed=1)
    names = [line.split(" is ")[0] for line in differences(one, other)]
    assert {"state", "state.params.head/bias", "best params.head/bias"} <= set(names)


def test_the_command(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setenv("XLA_FLAGS", "")
    # All but the first process find their programs in the cache.
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    # This seed kills after the first checkpoints, before a run has ended.
    flags = ["--config", "small.py", "--steps", "20", "--kills", "2", "--seed", "33"]
    main([*flags, "--config.ops.convolution=xla"])
    out = capsys.readouterr().out
    assert "killed 1 of" in out and "exact: bit-identical after 2 kills" in out
    with pytest.raises(UserError, match="must be at least 1"):
        main([*flags[:2], "--kills", "0"])
