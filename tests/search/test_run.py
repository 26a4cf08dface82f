"""Sweeps, as their command runs them."""

import json
import os
import signal
import time

import jax
import pytest
import quick
import tiny

from flaxcifar import config as configs
from flaxcifar.devices import parallel
from flaxcifar.errors import Interrupted, RunError, UserError
from flaxcifar.search.plan import plan
from flaxcifar.search.run import as_file, run_all
from flaxcifar.training.loop import train_and_evaluate
from flaxcifar.training.signals import postponed


@pytest.fixture
def one_device():
    with parallel.using(jax.devices()[:1]):
        yield


def planned(tmp_path, axes, seeds, **changes):
    path = tmp_path / "tiny_config.py"
    config = quick.config(total_steps=3, **changes)
    path.write_text(as_file(config, "tiny"))
    return plan(lambda overrides: configs.load(path, overrides), axes, seeds)


def read(workdir, name="sweep.json"):
    return json.loads((workdir / name).read_text())


def test_a_sweep_resumes_shares_its_programs_and_finds_the_best_setting(
    tmp_path, one_device, monkeypatch, capsys
):
    axes, workdir = [("optimizer.learning_rate", ["0.05", "1e-6"])], tmp_path / "sweep"
    # No other test has compiled a step of this batch.
    runs = planned(tmp_path, axes, 2, batch_size=24)
    traced, after, forward = [], [], tiny.OneStage.__call__

    def counted(self, x):
        # The summary replaces layers by functions.
        evaluates = getattr(self.stage1.dropout, "deterministic", True)
        traced.extend([] if evaluates else [x.shape])
        return forward(self, x)

    def train(config, path):
        if len(after) == 2:
            after.append(None)
            raise Interrupted(signal.SIGTERM)
        train_and_evaluate(config, path)
        after.append(len(traced))

    monkeypatch.setattr(tiny.OneStage, "__call__", counted)
    with pytest.raises(Interrupted):
        run_all(runs, workdir, train)
    assert not (workdir / "sweep.json").exists()
    run_all(runs, workdir, train)
    out = capsys.readouterr().out
    assert out.count("nothing to do") == 2 and "95 % interval" in out
    assert len({count for count in after if count is not None}) == 1 and traced

    found = read(workdir)
    accuracies = [read(workdir / run.name, "summary.json")["test"]["accuracy"] for run in runs]
    values = [row["test_accuracy"]["values"] for row in found["settings"]]
    assert values == [accuracies[:2], accuracies[2:]]
    best = next(run for run in runs if run.setting == found["best"])
    assert configs.to_json(configs.load(workdir / "best.py")) == configs.to_json(best.config)
    assert (workdir / "sweep.png").exists()


def test_what_the_data_does_not_fit_is_found_before_the_first_run(tmp_path):
    for key, values, words in (
        ("optimizer.name", ["sgd", "sdg"], "did you mean 'sgd'"),
        ("optimizer.learning_rte", ["1"], "learning_rate"),
        ("batch_size", ["16", "1000"], "batch_size"),
    ):
        with pytest.raises(UserError, match=words):
            run_all(planned(tmp_path, [(key, values)], 1), tmp_path / "sweep", pytest.fail)
    assert not (tmp_path / "sweep").exists()


def test_a_run_that_diverges_is_a_result_and_the_others_are_trained(tmp_path, one_device):
    runs = planned(tmp_path, [("optimizer.learning_rate", ["1e30", "0.05"])], 1)
    with pytest.raises(RunError, match="1 of 2 runs failed"):
        run_all(runs, tmp_path / "sweep", train_and_evaluate)
    bad, good = read(tmp_path / "sweep")["settings"]
    assert "not finite" in bad["failed"][0] and "test_accuracy" not in bad
    assert good["test_accuracy"]["n"] == 1
    assert read(tmp_path / "sweep")["best"] == "optimizer.learning_rate=0.05"


def test_runs_spread_over_devices_give_the_same(tmp_path):
    runs = planned(tmp_path, [], seeds=3)
    for count in (1, 2):
        with parallel.using(jax.devices()[:count]):
            run_all(runs, tmp_path / str(count), train_and_evaluate)
    one, two = (read(tmp_path / name)["settings"][0]["test_loss"]["values"] for name in "12")
    assert one == two and len(set(one)) == 3
    assert not (tmp_path / "1" / "best.py").exists()  # no settings were swept


def test_a_signal_interrupts_the_runs_of_all_devices(tmp_path):
    interrupted = []

    def train(config, workdir):
        with postponed() as interruption:
            if config.seed == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            try:
                for _ in range(1000):
                    interruption.check()
                    time.sleep(0.01)
            except Interrupted:
                interrupted.append(config.seed)
                raise

    runs = planned(tmp_path, [], seeds=4)
    with parallel.using(jax.devices()[:2]), pytest.raises(Interrupted) as caught:
        run_all(runs, tmp_path / "sweep", train)
    assert caught.value.exit_code == 143 and set(interrupted) >= {0, 1}
