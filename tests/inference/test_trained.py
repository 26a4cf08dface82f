import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import quick
import tiny
from PIL import Image

from flaxcifar import config
from flaxcifar.cli import evaluate, export, predict
from flaxcifar.data.normalization import Normalization
from flaxcifar.errors import UserError
from flaxcifar.inference.trained import Trained
from flaxcifar.training.networks import make_network
from flaxcifar.workdir.checkpoints import read_best


def test_predictions_are_those_of_the_evaluation(workdir, trained):
    test = tiny.dataset().test
    found = trained.predict_proba(test.images)
    assert found.shape == (50, 4) and found.dtype == np.float32
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    summary = json.loads((workdir / "summary.json").read_text())["test"]
    assert np.mean(found.argmax(axis=1) == test.labels) == pytest.approx(summary["accuracy"])
    losses = -np.log(found[np.arange(50), test.labels])
    assert losses.mean() == pytest.approx(summary["loss"], rel=1e-4)


def test_a_workdir_has_all_of_a_model_and_needs_no_dataset(workdir, tmp_path):
    best, record = read_best(workdir)
    settings = config.from_json(record["config"])
    settings.data.dir = str(tmp_path / "gone")
    trained = dataclasses.replace(Trained.from_workdir(workdir), config=settings)
    for found, kind in zip(trained.variables, ("params", "batch_stats"), strict=True):
        assert found.keys() == best[kind].keys()
        assert all(np.array_equal(found[path], best[kind][path]) for path in found)
    assert trained.class_names == ("class 0", "class 1", "class 2", "class 3")
    assert (trained.step, trained.image_size) == (record["history"][-1]["step"], 8)
    assert trained.predict_proba(tiny.dataset().test.images[:2]).shape == (2, 4)
    with pytest.raises(UserError, match="cannot read"):
        trained.load_dataset()


def test_runs_of_one_model_share_a_program_and_nothing_else(trained, caplog):
    images = tiny.dataset().test.images
    first = trained.predict_proba(images)
    other = dataclasses.replace(
        trained,
        network=make_network(quick.config(), 4)[0],
        normalization=Normalization((9.0,) * 3, (50.0,) * 3),
    )
    with jax.log_compiles():
        found = other.predict_proba(images)
    assert not caplog.records
    module = other.network.module(*other.variables)
    module.eval()
    logits = np.asarray(module((images.astype(np.float32) - 9) / (50 + 1e-7)))
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert not np.allclose(found, first)


def test_images_of_other_sizes_are_resized_and_none_are_none(trained):
    image = np.full((1, 8, 8, 3), (200, 30, 90), np.uint8)
    large = np.full((1, 20, 16, 3), (200, 30, 90), np.uint8)
    np.testing.assert_allclose(
        trained.predict_proba(image), trained.predict_proba(large), rtol=1e-5
    )
    assert trained.predict_proba(image[:0]).shape == (0, 4)
    with pytest.raises(UserError, match=r"256 steps exactly: .* got float64 from 0.3896 to 2.597"):
        trained.predict_proba(image / 77)


def test_files_come_in_order_with_the_error_of_an_unreadable_one(trained, tmp_path):
    images = tiny.dataset().test.images
    # More than two batches, of 32.
    paths = [tmp_path / f"{n}.png" for n in range(70)]
    for n, path in enumerate(paths):
        Image.fromarray(images[n % 50]).save(path)
    paths[40].write_bytes(b"no image")
    found = list(trained.predict_files(paths))
    assert [path for path, _ in found] == paths
    assert isinstance(found[40][1], UserError)
    expected = trained.predict_proba(images)
    for n in {*range(70)} - {40}:
        np.testing.assert_array_equal(found[n][1], expected[n % 50])
    assert not list(trained.predict_files([]))


def test_float32_is_another_network_with_the_same_arrays(trained):
    rounded = dataclasses.replace(
        trained,
        config=quick.config(precision="bfloat16"),
        network=make_network(quick.config(precision="bfloat16"), 4)[0],
    )
    images = tiny.dataset().test.images
    exact = rounded.in_float32()
    assert exact.config.precision == "float32"
    np.testing.assert_array_equal(exact.predict_proba(images), trained.predict_proba(images))
    assert not np.array_equal(rounded.predict_proba(images), trained.predict_proba(images))


def test_another_dataset_is_refused(trained, tmp_path):
    assert trained.load_dataset().fingerprint == trained.fingerprint
    for changes in (dict(seed=1), dict(classes=5)):
        settings = quick.config(**{"data.dir": tiny.write(tmp_path / str(changes), **changes)})
        other = dataclasses.replace(trained, config=settings)
        with pytest.raises(UserError, match="is not the one"):
            other.load_dataset()


def test_no_run_is_one_line(tmp_path):
    with pytest.raises(UserError, match="not the workdir of a run"):
        Trained.from_workdir(tmp_path)


def test_a_damaged_checkpoint_is_reported_or_with_strict_refused(workdir, tmp_path, capsys):
    damaged = shutil.copytree(workdir, tmp_path / "run")
    (damaged / "checkpoints/latest/18/layout.json").write_text("{}")
    assert Trained.from_workdir(damaged).step == 9
    assert "latest/18/layout.json has changed since it was written; using that of step 9" in (
        capsys.readouterr().out
    )
    for command in (evaluate, predict, export):
        images = [str(tmp_path / "image.png")] * (command is predict)
        Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
        with pytest.raises(UserError, match="latest/18/layout.json has changed .*--strict that of"):
            command.main([*images, "--workdir", str(damaged), "--strict"])
