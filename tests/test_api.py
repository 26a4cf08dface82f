"""The Python API: arrays in, results out, and the same runs as the command line's."""

import json
import subprocess
import sys

import numpy as np
import pytest
import quick
import tiny
from PIL import Image

import flaxcifar
from flaxcifar.cli import evaluate, train
from flaxcifar.config import to_json
from flaxcifar.search.run import as_file


def write(path, **changes):
    """Writes a config file and returns its path."""
    path.write_text(as_file(quick.config(**changes), "tests"))
    return path


def arrays():
    """Returns the arguments of `fit` that make the dataset `tiny`."""
    data = tiny.dataset()
    return {
        "images": data.train.images,
        "labels": data.train.labels,
        "test_data": (data.test.images, data.test.labels),
        "class_names": data.class_names,
        "superclass_of": data.superclass_of,
    }


class Recorder(flaxcifar.Callback):
    def __init__(self, stop_at=None):
        self.said, self.stop_at = [], stop_at

    def on_start(self, run, history):
        self.said.append(("start", run.total_steps, len(history)))

    def on_epoch_end(self, run, row):
        self.said.append(("epoch", row["epoch"], (run.workdir / "checkpoints/latest").exists()))
        row.clear()
        return len(self.said) - 1 == self.stop_at

    def on_end(self, run, summary):
        self.said.append(("end", summary["stop_reason"], run.config["seed"]))
        summary.clear()


@pytest.fixture(scope="module")
def commanded(tmp_path_factory):
    """The workdir of a run by the command line."""
    folder = tmp_path_factory.mktemp("commanded")
    path = write(folder / "mine.py")
    train.main(["--config", str(path), "--workdir", str(folder / "run")])
    return folder / "run"


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """The result of the same run by `fit`, with a callback, and what the callback was told."""
    recorder = Recorder()
    workdir = tmp_path_factory.mktemp("fitted") / "run"
    config = quick.config()
    before = to_json(config)
    result = flaxcifar.fit(**arrays(), config=config, workdir=workdir, callbacks=[recorder])
    assert to_json(config) == before
    return result, recorder.said


def test_arrays_with_a_callback_train_as_the_command_line_does(commanded, fitted):
    result, said = fitted
    ours, theirs = (w / "metrics.jsonl" for w in (result.workdir, commanded))
    assert ours.read_bytes() == theirs.read_bytes()
    assert result.test == json.loads((commanded / "summary.json").read_text())["test"]
    steps = result.summary["steps"]
    epochs = [("epoch", row["epoch"], True) for row in result.history]
    assert said == [("start", steps, 0), *epochs, ("end", "completed", 0)]


def test_a_callback_stops_and_the_same_call_resumes(fitted, tmp_path):
    call = {**arrays(), "config": quick.config(), "workdir": tmp_path / "run"}
    stopped = flaxcifar.fit(**call, callbacks=[Recorder(stop_at=1), Recorder()])
    assert len(stopped.history) == 1 and stopped.summary["stop_reason"] == "stopped by a callback"
    recorder = Recorder()
    resumed = flaxcifar.fit(**call, callbacks=[recorder])
    assert recorder.said[0] == ("start", 18, 1)
    assert resumed.history == fitted[0].history and resumed.test == fitted[0].test
    again = Recorder()
    flaxcifar.fit(**call, callbacks=[again])
    assert again.said == [("end", "completed", 0)]


def test_an_exception_of_a_callback_passes_through_and_keeps_the_epoch(tmp_path):
    class Failing(flaxcifar.Callback):
        def on_epoch_end(self, run, row):
            raise ZeroDivisionError

    call = {**arrays(), "config": quick.config(), "workdir": tmp_path / "run"}
    with pytest.raises(ZeroDivisionError):
        flaxcifar.fit(**call, callbacks=[Failing()])
    recorder = Recorder()
    flaxcifar.fit(**call, callbacks=[recorder])
    assert recorder.said[0] == ("start", 18, 1)


def test_commands_work_on_the_workdir_of_arrays(fitted, capsys):
    evaluate.main(["--workdir", str(fitted[0].workdir)])
    assert "test" in capsys.readouterr().out


def test_lost_and_other_arrays_are_told_apart(fitted, tmp_path):
    call = arrays() | {"config": quick.config(), "workdir": fitted[0].workdir}
    with pytest.raises(flaxcifar.UserError, match="dataset differs from the one this run"):
        flaxcifar.fit(**call | {"images": 255 - call["images"]})
    config = quick.config(**{"data.name": "arrays", "data.dir": "0" * 64})
    with pytest.raises(flaxcifar.UserError, match="arrays 000000000000 are no longer in the cache"):
        flaxcifar.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_validation_data_is_the_validation_split(tmp_path):
    given = arrays()
    images, labels = given["test_data"]
    config = quick.config(total_epochs=1)
    result = flaxcifar.fit(
        **given, validation_data=(images, labels), config=config, workdir=tmp_path / "run"
    )
    (row,) = result.history
    assert result.summary["dataset"]["train_examples"] == len(given["labels"])
    assert row["validation_examples"] == len(labels)
    assert row["validation_loss"] == pytest.approx(result.test["loss"], rel=1e-6)


def test_without_test_data_a_fifth_of_every_class_is_held_out(tmp_path, capsys):
    given = arrays()
    del given["test_data"]
    result = flaxcifar.fit(**given, config=quick.config(total_epochs=1), workdir=tmp_path / "run")
    count = len(given["labels"])
    assert result.test["examples"] == round(count / 5)
    assert f"{round(count / 5)} images are held out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": np.zeros((8, 6, 8, 3), np.uint8)}, "images must be square, got 6 x 8: pad"),
        ({"labels": [0, 1]}, "labels must be integers, one for each of"),
        ({"test_data": (np.zeros((1, 9, 9, 3), np.uint8), [0])}, "test images must have the size"),
        ({"class_names": ["a", "b"], "superclass_of": None}, "labels must be from 0 to 1"),
        (
            {"superclass_of": [0, 1]},
            "superclass_of must be integers, one for each of the 4 classes",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused_in_one_line(changes, words, tmp_path):
    with pytest.raises(flaxcifar.UserError, match=words) as caught:
        flaxcifar.fit(**arrays() | changes, config=quick.config(), workdir=tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_the_model_predicts_arrays_files_and_pictures(fitted, tmp_path):
    model, images = fitted[0].model, tiny.dataset().test.images[:3]
    probabilities = model.predict_proba(images)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(model.predict(images), probabilities.argmax(axis=1))
    np.testing.assert_allclose(model.predict_proba(images / 255.0), probabilities, rtol=1e-5)
    path = tmp_path / "one.png"
    Image.fromarray(images[0]).save(path)
    mixed = [path, Image.fromarray(images[1]), images[2], str(path)]
    found = model.predict_proba(mixed)
    np.testing.assert_allclose(found, probabilities[[0, 1, 2, 0]], rtol=1e-5)
    assert model.predict(path).tolist() == model.predict(images[:1]).tolist()
    with pytest.raises(flaxcifar.UserError, match="cannot read the image|not a regular file"):
        model.predict([path, tmp_path / "missing.png"])


def test_features_are_what_the_head_gets(fitted):
    model, images = fitted[0].model, tiny.dataset().test.images[:5]
    features = model.features(images)
    kernel, bias = (np.asarray(model.variables[0][f"head/{n}"]) for n in ("kernel", "bias"))
    logits = features @ kernel + bias
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict_proba(images), expected, rtol=1e-4)


def test_the_module_is_the_network(fitted):
    model, images = fitted[0].model, tiny.dataset().test.images[:5]
    logits = np.asarray(model.module(model.normalization(images.astype(np.float32))))
    np.testing.assert_array_equal(logits.argmax(axis=1), model.predict(images))


def test_evaluate_on_arrays_equals_the_test_split(fitted):
    test = tiny.dataset().test
    found = fitted[0].model.evaluate(test.images, test.labels)
    expected = dict(fitted[0].test)
    del expected["coarse_accuracy"]  # the arrays have no superclasses
    assert found == pytest.approx(expected, rel=1e-6)
    with pytest.raises(
        flaxcifar.UserError, match="labels must be from 0 to 3, got 9 for example 0"
    ):
        fitted[0].model.evaluate(test.images[:1], [9])


def test_summary_and_export(fitted, tmp_path, capsys):
    fitted[0].model.summary()
    assert "stage1/conv" in capsys.readouterr().out
    files = fitted[0].model.export(tmp_path / "out", ["safetensors"])
    assert files["safetensors"].is_file()
    with pytest.raises(flaxcifar.UserError, match="unknown format 'onx'; did you mean 'onnx'"):
        fitted[0].model.export(tmp_path / "out", ["onx"])


def test_figures_and_the_report(fitted):
    result = fitted[0]
    loss, accuracy = result.plot_curves().axes
    assert list(loss.lines[0].get_ydata()) == [row["train_loss"] for row in result.history]
    assert accuracy.get_ylabel() == "accuracy"
    shown = result.plot_confusion().axes[0].images[0].get_array()
    np.testing.assert_allclose(np.sum(shown, axis=1), 1)
    report = result.report()
    page = report._repr_html_()
    assert report.path == result.workdir / "report.html" and page.startswith("<iframe srcdoc=")
    assert "&lt;html" in page


def test_own_metrics_are_means_over_examples(tmp_path):
    import jax.numpy as jnp

    @flaxcifar.METRICS.register
    def second(logits, labels, *, weight: float = 1.0):
        hit = jnp.argsort(logits, axis=1)[:, -2] == labels
        return weight * hit.astype(jnp.float32)

    try:
        metrics = ({"name": "second", "weight": 2.0}, {"name": "top_k", "k": 2})
        stopping = {"metric": "top_k_2", "mode": "max"}
        config = quick.config(total_epochs=1, metrics=metrics)
        config.early_stopping.update(stopping)
        result = flaxcifar.fit(**arrays(), config=config, workdir=tmp_path / "run")
        test = tiny.dataset().test
        order = np.argsort(-result.model.predict_proba(test.images), axis=1)
        hits = order[:, :2] == test.labels[:, None]
        assert result.test["second_2.0"] == pytest.approx(2 * np.mean(hits[:, 1]), rel=1e-6)
        assert result.test["top_k_2"] == pytest.approx(np.mean(hits.any(axis=1)), rel=1e-6)
        assert {"train_second_2.0", "validation_top_k_2"} <= result.history[0].keys()
        found = result.model.evaluate(test.images, test.labels)
        assert found["second_2.0"] == pytest.approx(result.test["second_2.0"])
        config = quick.config(metrics=({"name": "second", "weight": "much"},))
        with pytest.raises(flaxcifar.UserError, match="metric 'second': weight must be a number"):
            flaxcifar.train(config, tmp_path / "other")
    finally:
        del flaxcifar.METRICS._functions["second"]


def test_configs_take_nested_and_dotted_overrides(tmp_path):
    path = write(tmp_path / "mine.py")
    nested = flaxcifar.load_config(path, total_epochs=7, optimizer={"learning_rate": 0.5})
    dotted = flaxcifar.load_config(path, **{"total_epochs": 7, "optimizer.learning_rate": 0.5})
    assert to_json(nested) == to_json(dotted)
    assert nested.total_epochs == 7 and nested.optimizer.learning_rate == 0.5
    assert nested.optimizer.name == quick.config().optimizer.name
    other = flaxcifar.load_config(path, optimizer={"name": "adam", "learning_rate": 0.1})
    assert to_json(other)["optimizer"] == {"name": "adam", "learning_rate": 0.1}
    with pytest.raises(flaxcifar.UserError, match="total_epoch is not a config key; did you mean"):
        flaxcifar.load_config(path, total_epoch=7)
    config = quick.config()
    config.batch_size = 0
    with pytest.raises(flaxcifar.UserError, match="batch_size must be between 1 and"):
        flaxcifar.train(config, tmp_path / "run")


def test_importing_the_package_imports_neither_jax_nor_tensorflow():
    code = (
        "import sys, flaxcifar; dir(flaxcifar); flaxcifar.UserError;"
        "assert not {'jax', 'tensorflow', 'flax', 'numpy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert set(flaxcifar.__all__) == set(flaxcifar._HOMES)
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        _ = flaxcifar.fitt
