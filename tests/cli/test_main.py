"""The train command and those that read its runs, as a user types them."""

import json

import jax
import pytest
from commands import run
from PIL import Image

from flaxcifar.cli import evaluate, train
from flaxcifar.devices import parallel
from flaxcifar.errors import UserError


def run_train(place, *flags, devices=2):
    """Runs the train command in this process, on a smaller network and with fewer devices."""
    config = ["--config", str(place / "small.py"), "--config.report=False"]
    config += ["--config.ops.convolution=xla"]
    with parallel.using(jax.devices()[:devices]):
        train.main([*config, *map(str, flags)])


def test_a_run_and_its_evaluation_without_tensorflow(place):
    flags = ("--config", place / "small.py", "--workdir", place / "run")
    blocked = ("tensorflow", "tensorflow_datasets")
    out, err = run(place, "flaxcifar.main", *flags, without=blocked)
    assert "test" in out and "workdir:" in out and "Traceback" not in err
    summary = json.loads((place / "run" / "summary.json").read_text())
    assert summary["test"]["examples"] == 16 and summary["devices"] == ["cpu", "cpu"]

    flags = ("evaluate", "--workdir", place / "run")
    out, _ = run(place, "flaxcifar", *flags, without=blocked, after="import tiny")
    assert f"{100 * summary['test']['accuracy']:.2f} %" in out


def test_a_run_resumes_on_other_numbers_of_devices(place, capsys):
    """The global batches and their order stay; only the order of sums differs."""

    def rows(name, epochs, devices):
        flags = ("--workdir", place / name, f"--config.total_epochs={epochs}")
        run_train(place, *flags, devices=devices)
        lines = (place / name / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    straight = rows("straight", 3, 1)
    for epochs, devices in ((1, 1), (2, 8), (3, 4)):
        changed = rows("changed", epochs, devices)
    for one, other in zip(straight, changed, strict=True):
        assert other == pytest.approx(one, rel=1e-3)
    assert "resumed after step 6 of 9" in capsys.readouterr().out
    rows("changed", 3, 8)
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.optimizr.name=sgd", "did you mean 'optimizer'"),
        ("--config.batch_size=many", "batch_size must be an integer, got 'many'"),
        ("--config.total_epochs=0", "total_epochs must be between 1 and"),
        ("--confg.seed=1", "unknown argument"),
    ],
)
@pytest.mark.parametrize("door", [("flaxcifar.main",), ("flaxcifar", "train")])
def test_a_bad_config_is_one_line_before_jax_is_imported(place, override, message, door):
    args = ("--config", place / "config.py", override)
    blocked = ("jax", "flax", "tensorflow")
    out, err = run(place, *door, *args, code=2, without=blocked)
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
def test_a_bad_name_is_one_line_and_leaves_nothing_behind(place, override, message, monkeypatch):
    monkeypatch.chdir(place)
    with pytest.raises(UserError, match=message) as error:
        run_train(place, override)
    assert "\n" not in str(error.value) and not (place / "runs").exists()


def test_an_unreadable_image_is_named(place, tmp_path):
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for n in range(5):
            Image.new("RGB", (8, 8)).save(tmp_path / label / f"{n}.png")
    (tmp_path / "a" / "broken.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="broken.png") as error:
        run_train(place, f"--config.data.dir={tmp_path}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("platform", "command"),
    [
        ("cuda", ("doctor",)),
        ("cpuu", ("train", "--config", "small.py", "--workdir", "nowhere")),
        ("cpuu", ("evaluate", "--workdir", "empty")),
    ],
)
def test_a_platform_that_is_not_there_is_one_line(place, monkeypatch, platform, command):
    monkeypatch.setenv("JAX_PLATFORMS", platform)
    (place / "empty" / "checkpoints").mkdir(parents=True, exist_ok=True)
    _, err = run(place, "flaxcifar", *command, code=2)
    assert err.startswith(f"flaxcifar: JAX cannot use the platform {platform!r} of JAX_PLATFORMS")
    assert err.count("\n") == 1 and not (place / "nowhere").exists()


def test_evaluating_what_is_no_run(place):
    with pytest.raises(UserError, match="is not the workdir of a run"):
        evaluate.main(["--workdir", str(place)])


def test_seeds_and_settings_by_the_command(place, tmp_path, capsys):
    """One setting is wrong: nothing is trained. Then all are, and the same command says so."""

    def sweep(*flags):
        run_train(
            place, "--config.total_epochs=1", "--workdir", tmp_path / "runs", *flags, devices=1
        )

    with pytest.raises(UserError, match="did you mean 'batch_size'"):
        sweep("--sweep", "batch_size=16,1000", "--sweep", "batch_siz=1")
    assert not (tmp_path / "runs").exists()
    with pytest.raises(UserError, match="--seeds must be at least 1, got 0"):
        sweep("--seeds", "0")
    for flags in (("--seeds", "99999999999"), ("--sweep", "batch_size=8,16", "--seeds", "501")):
        with pytest.raises(UserError, match="--seeds and --sweep.* at most 1,000"):
            sweep(*flags)
    settings = ("--sweep", "optimizer.learning_rate=0.1,0.01", "--seeds", "2")
    sweep(*settings)
    output = capsys.readouterr().out
    assert "optimizer.learning_rate=0.01,seed=1: " in output and "best config: " in output
    rows = json.loads((tmp_path / "runs" / "sweep.json").read_text())["settings"]
    assert [row["seeds"] for row in rows] == [[0, 1], [0, 1]]
    sweep(*settings)
    assert capsys.readouterr().out.count("nothing to do") == 4
    best = ["--config", str(tmp_path / "runs" / "best.py"), "--workdir", str(tmp_path / "again")]
    with parallel.using(jax.devices()[:1]):
        train.main(best)
    assert "test" in capsys.readouterr().out
