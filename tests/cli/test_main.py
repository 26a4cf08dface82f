"""The commands as a user types them, in processes of their own."""

import json

import pytest
from commands import run
from PIL import Image


@pytest.mark.xdist_group("main")
def test_a_run_without_tensorflow_its_evaluation_and_its_resumption(place):
    main = ("flaxcifar.main", "--config", place / "config.py", "--workdir", place / "run")
    blocked = ("tensorflow", "tensorflow_datasets")
    out, err = run(place, *main, without=blocked)
    assert "test" in out and "workdir:" in out and "Traceback" not in err
    summary = json.loads((place / "run" / "summary.json").read_text())
    assert summary["test"]["examples"] == 16 and summary["devices"] == ["cpu", "cpu"]

    out, _ = run(place, "flaxcifar", "evaluate", "--workdir", place / "run", without=blocked)
    assert f"{100 * summary['test']['accuracy']:.2f} %" in out

    out, _ = run(place, *main)
    assert "nothing to do" in out
    out, _ = run(place, *main, "--config.total_epochs=3")
    assert "resumed after step 6 of 9" in out and "epoch 3/3" in out


def test_a_run_goes_on_with_other_numbers_of_devices(place):
    """The global batches and their order stay; only the order of sums differs."""

    def train(name, epochs, devices):
        settings = (f"--config.total_epochs={epochs}", "--config.ops.convolution=xla")
        args = ("--config", place / "config.py", "--workdir", place / name, *settings)
        run(place, "flaxcifar.main", *args, devices=devices)
        lines = (place / name / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    straight = train("straight", 3, 1)
    for epochs, devices in ((1, 1), (2, 8), (3, 4)):
        changed = train("changed", epochs, devices)
    for one, other in zip(straight, changed, strict=True):
        assert other == pytest.approx(one, rel=1e-3)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.optimizr.name=sgd", "did you mean 'optimizer'"),
        ("--config.batch_size=many", "batch_size must be an integer, got 'many'"),
        ("--config.total_epochs=0", "total_epochs must be at least 1, got 0"),
        ("--confg.seed=1", "unknown argument"),
    ],
)
def test_a_bad_config_is_one_line_before_jax_is_imported(place, override, message):
    args = ("--config", place / "config.py", override)
    blocked = ("jax", "flax", "tensorflow")
    out, err = run(place, "flaxcifar.main", *args, code=2, without=blocked)
    assert message in err and err.count("\n") == 1 and not out
    assert not (place / "runs").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.model.name=vgg61", "did you mean 'vgg16'"),
        ("--config.optimizer.name=sdg", "did you mean 'sgd'"),
        ("--config.batch_size=15", "does not divide over 2 devices"),
        ("--config.data.dir=nowhere", "nowhere"),
    ],
)
def test_a_bad_name_is_one_line_and_leaves_nothing_behind(place, override, message):
    args = ("--config", place / "config.py", override)
    _, err = run(place, "flaxcifar.main", *args, code=2)
    assert message in err and err.count("\n") == 1
    assert not (place / "runs").exists()


def test_an_unreadable_image_is_named(place, tmp_path):
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for n in range(5):
            Image.new("RGB", (8, 8)).save(tmp_path / label / f"{n}.png")
    (tmp_path / "a" / "broken.png").write_bytes(b"no image")
    args = ("--config", place / "config.py", f"--config.data.dir={tmp_path}")
    _, err = run(place, "flaxcifar.main", *args, code=2)
    assert "broken.png" in err and err.count("\n") == 1


def test_evaluating_what_is_no_run(place):
    _, err = run(place, "flaxcifar", "evaluate", "--workdir", place, code=2)
    assert "is not the workdir of a run" in err and err.count("\n") == 1


def test_seeds_and_settings_by_the_command(place, tmp_path):
    """One setting is wrong: nothing is trained. Then all are, and the same command says so."""
    options = ("--config", "config.py", "--config.total_epochs=1", "--workdir", tmp_path / "runs")
    sweep = ("--sweep", "optimizer.learning_rate=0.1,0.01", "--seeds", "2")
    bad = ("--sweep", "batch_size=16,1000")
    _, errors = run(place, "flaxcifar.main", *options, *bad, "--sweep", "batch_siz=1", code=2)
    assert "did you mean 'batch_size'" in errors and not (tmp_path / "runs").exists()
    _, errors = run(place, "flaxcifar.main", *options, "--seeds", "0", code=2)
    assert "--seeds is 0" in errors
    output, _ = run(place, "flaxcifar.main", *options, *sweep)
    assert "optimizer.learning_rate=0.01,seed=1: " in output and "best config: " in output
    rows = json.loads((tmp_path / "runs" / "sweep.json").read_text())["settings"]
    assert [row["seeds"] for row in rows] == [[0, 1], [0, 1]]
    output, _ = run(place, "flaxcifar.main", *options, *sweep)
    assert output.count("nothing to do") == 4
    best = ("--config", tmp_path / "runs" / "best.py", "--workdir", tmp_path / "again")
    assert "test" in run(place, "flaxcifar.main", *best)[0]
