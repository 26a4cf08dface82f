import json

import numpy as np
import pytest
import tiny

from flaxcifar import data
from flaxcifar.data.normalization import Normalization
from flaxcifar.errors import UserError
from flaxcifar.inference import predict
from flaxcifar.inference.predict import Predictor
from flaxcifar.training.loop import train_and_evaluate


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load", lambda config: tiny.dataset())
        train_and_evaluate(tiny.config(), workdir)
    return workdir


@pytest.mark.xdist_group("predict")
def test_predictions_are_those_of_the_evaluation(workdir, monkeypatch):
    # Without the dataset: a model is all that it needs.
    monkeypatch.delattr(data, "load")
    predictor = Predictor.from_workdir(workdir)
    test = tiny.dataset().test
    found = predictor(test.images)
    assert found.shape == (50, 4) and found.dtype == np.float32
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    summary = json.loads((workdir / "summary.json").read_text())["test"]
    assert np.mean(found.argmax(axis=1) == test.labels) == pytest.approx(summary["accuracy"])
    losses = -np.log(found[np.arange(50), test.labels])
    assert losses.mean() == pytest.approx(summary["loss"], rel=1e-4)


@pytest.mark.xdist_group("predict")
def test_runs_of_one_model_share_a_program_and_nothing_else(workdir):
    images, first = tiny.dataset().test.images, Predictor.from_workdir(workdir)
    other = Predictor(
        tiny.config(), first.variables, Normalization((9.0,) * 3, (50.0,) * 3), "abcd"
    )
    first(images)
    programs = predict._compiled(first.network)._cache_size()
    found = other(images)
    assert predict._compiled(other.network)._cache_size() == programs > 0
    module = other.network.module(*first.variables)
    module.eval()
    logits = np.asarray(module((images.astype(np.float32) - 9) / (50 + 1e-7)))
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert not np.allclose(found, first(images))


@pytest.mark.xdist_group("predict")
def test_images_of_other_sizes_are_resized_and_none_are_none(workdir):
    predictor = Predictor.from_workdir(workdir)
    image = np.full((1, 8, 8, 3), (200, 30, 90), np.uint8)
    large = np.full((1, 20, 16, 3), (200, 30, 90), np.uint8)
    np.testing.assert_allclose(predictor(image), predictor(large), rtol=1e-5)
    assert predictor(image[:0]).shape == (0, 4)
    with pytest.raises(UserError, match="float64"):
        predictor(image / 255)
