"""Seeds and sweeps, as their command runs them."""

import json
import os
import signal
import statistics
import threading

import jax
import numpy as np
import pytest
import scipy.stats
import tiny

from flaxcifar import config as configs
from flaxcifar import data
from flaxcifar.devices import parallel
from flaxcifar.errors import Interrupted, RunError, UserError
from flaxcifar.search import sweep
from flaxcifar.training import loop


@pytest.fixture(autouse=True)
def dataset(monkeypatch):
    monkeypatch.setattr(data, "load", lambda config: tiny.dataset())


@pytest.fixture
def one_device():
    with parallel.using(jax.devices()[:1]):
        yield


def loader(tmp_path, **changes):
    """Returns `load` of a config file of the tiny run."""
    path = tmp_path / "tiny_config.py"
    values = configs.to_json(tiny.config(total_epochs=1, **changes))
    path.write_text(sweep.as_file(configs.from_json(values), "tiny"))
    return lambda overrides: configs.load(path, overrides)


def read(workdir, name="sweep.json"):
    return json.loads((workdir / name).read_text())


def test_axes_are_split_at_commas_outside_brackets():
    assert sweep.parse_axis("a.b=1,2") == ("a.b", ["1", "2"])
    assert sweep.parse_axis("a=(1, 2),(3,)") == ("a", ["(1, 2)", "(3,)"])
    for bad in ("a", "=1", "a.=1", "a=", "a=1,,2"):
        with pytest.raises(UserError, match="expected some.key=value,value"):
            sweep.parse_axis(bad)


def test_the_plan_is_the_product_of_the_axes_and_the_seeds(tmp_path):
    axes = [("optimizer.learning_rate", ["0.1", "0.2"]), ("batch_size", ["8", "16"])]
    runs = sweep.plan(loader(tmp_path, seed=5), axes, seeds=3)
    assert len(runs) == 12 and len({run.name for run in runs}) == 12
    assert [run.config.seed for run in runs[:4]] == [5, 6, 7, 5]
    assert runs[-1].config.optimizer.learning_rate == 0.2 and runs[-1].config.batch_size == 16
    assert runs[-1].setting == "optimizer.learning_rate=0.2, batch_size=16"


@pytest.mark.parametrize(
    ("axes", "seeds", "message"),
    [
        ([("optimizer.learning_rte", ["1"])], 1, "learning_rate"),
        ([("batch_size", ["8", "many"])], 1, "batch_size is 'many'"),
        ([("optimizer.name", ["sgd", "sdg"])], 1, "did you mean 'sgd'"),
        ([("batch_size", ["8"]), ("batch_size", ["9"])], 1, "once"),
        ([("seed", ["8"])], 2, "once"),
    ],
)
def test_mistakes_are_found_before_the_first_run(axes, seeds, message, tmp_path):
    with pytest.raises(UserError, match=message):
        runs = sweep.plan(loader(tmp_path), axes, seeds)
        sweep.run_all(runs, tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_a_sweep_needs_a_validation_split(tmp_path):
    load = loader(tmp_path, **{"data.validation_percent": 0.0})
    with pytest.raises(UserError, match="validation split"):
        sweep.plan(load, [("batch_size", ["8"])], 1)
    assert len(sweep.plan(load, [], 3)) == 3


def test_the_spread_of_several_seeds_by_scipy():
    values = [0.71, 0.74, 0.72, 0.78]
    found = sweep.spread(values)
    low, high = scipy.stats.t.interval(0.95, 3, loc=np.mean(values), scale=scipy.stats.sem(values))
    assert found["mean"] == pytest.approx(np.mean(values))
    assert found["deviation"] == pytest.approx(np.std(values, ddof=1))
    assert found["interval"] == pytest.approx([low, high])
    assert sweep.spread([0.5])["interval"] is None


@pytest.mark.xdist_group("sweep")
def test_seeds_end_in_a_summary_and_compile_once(tmp_path, one_device, capsys):
    runs = sweep.plan(loader(tmp_path), [], seeds=3)
    programs = loop._compiled.cache_info().misses
    sweep.run_all(runs, tmp_path / "sweep")
    (row,) = read(tmp_path / "sweep")["settings"]
    accuracies = [
        read(tmp_path / "sweep" / run.name, "summary.json")["test"]["accuracy"] for run in runs
    ]
    assert row["test_accuracy"]["values"] == accuracies and len(set(accuracies)) > 1
    assert row["test_accuracy"]["mean"] == pytest.approx(statistics.fmean(accuracies))
    assert loop._compiled.cache_info().misses == programs + 1
    assert not (tmp_path / "sweep" / "best.py").exists()
    assert (tmp_path / "sweep" / "sweep.png").stat().st_size > 5000
    assert "95 % interval" in capsys.readouterr().out


@pytest.mark.xdist_group("sweep")
def test_a_sweep_finds_the_best_setting_and_goes_on_where_it_stopped(
    tmp_path, one_device, monkeypatch, capsys
):
    load, workdir = loader(tmp_path), tmp_path / "sweep"
    runs = sweep.plan(load, [("optimizer.learning_rate", ["0.05", "1e-6"])], seeds=1)
    trained, real = [], sweep.train_and_evaluate

    def counted(config, path, **options):
        trained.append(path.name)
        if len(trained) == 2:
            raise Interrupted(signal.SIGTERM)
        return real(config, path, **options)

    monkeypatch.setattr(sweep, "train_and_evaluate", counted)
    with pytest.raises(Interrupted):
        sweep.run_all(runs, workdir)
    assert not (workdir / "sweep.json").exists()
    sweep.run_all(runs, workdir)
    assert "nothing to do" in capsys.readouterr().out
    found = read(workdir)
    assert found["best"] == "optimizer.learning_rate=0.05"
    best = configs.load(workdir / "best.py")
    assert configs.to_json(best) == configs.to_json(runs[0].config)


@pytest.mark.xdist_group("sweep")
def test_a_run_that_diverges_is_a_result_and_the_others_go_on(tmp_path, one_device):
    axes = [("optimizer.learning_rate", ["1e30", "0.05"])]
    with pytest.raises(RunError, match="1 of 2 runs failed"):
        sweep.run_all(sweep.plan(loader(tmp_path), axes, 1), tmp_path / "sweep")
    bad, good = read(tmp_path / "sweep")["settings"]
    assert "not finite" in bad["failed"][0] and "test_accuracy" not in bad
    assert good["test_accuracy"]["n"] == 1
    assert read(tmp_path / "sweep")["best"] == "optimizer.learning_rate=0.05"


@pytest.mark.xdist_group("sweep")
def test_runs_spread_over_devices_give_the_same(tmp_path):
    runs = sweep.plan(loader(tmp_path), [], seeds=3)
    with parallel.using(jax.devices()[:1]):
        sweep.run_all(runs, tmp_path / "one")
    with parallel.using(jax.devices()[:2]):
        sweep.run_all(runs, tmp_path / "two")
    one, two = (read(tmp_path / name)["settings"][0] for name in ("one", "two"))
    assert one["test_loss"]["values"] == two["test_loss"]["values"]


def test_other_threads_see_the_signal_of_the_main_one():
    seen = []
    ready, sent = threading.Event(), threading.Event()

    def work():
        with sweep.postponed() as interruption:
            ready.set()
            sent.wait(10)
            try:
                interruption.check()
            except Interrupted as error:
                seen.append(error.exit_code)

    with sweep.postponed():
        thread = threading.Thread(target=work)
        thread.start()
        ready.wait(10)
        os.kill(os.getpid(), signal.SIGTERM)
        sent.set()
        thread.join(10)
    assert seen == [143]
