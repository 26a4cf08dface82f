"""The analysis covers the right split and agrees with the predictions."""

import json
import shutil

import numpy as np
import pytest
import tiny

from flaxcifar.inference.analysis import read_details
from flaxcifar.inference.confusion import confusion_matrix
from flaxcifar.workdir.checkpoints import Checkpoints, read_best
from flaxcifar.workdir.test_logits import read_test_logits, write_test_logits


def test_a_finished_run_is_analyzed_on_the_test_split(workdir, trained):
    test, found = tiny.dataset().test, read_details(workdir)
    probabilities = trained.predict_proba(test.images)
    predictions = probabilities.argmax(axis=1)
    assert (found.split, found.step) == ("test", trained.step)
    expected = confusion_matrix(test.labels, predictions, 4)
    np.testing.assert_array_equal(found.matrix, expected)
    wrong = predictions != test.labels
    assert [tile.right for tile in found.mistakes.tiles] == [False] * min(48, wrong.sum())
    surest = [tile.probability for tile in found.mistakes.tiles]
    assert surest == pytest.approx(sorted(probabilities[wrong].max(axis=1))[::-1][:48], rel=1e-5)
    chosen = np.random.default_rng(0).permutation(50)[:48]
    np.testing.assert_array_equal(found.random.images, test.images[chosen])
    for n, tile in zip(chosen, found.random.tiles, strict=True):
        assert tile.label == f"class {test.labels[n]}"
        assert tile.prediction == f"class {predictions[n]}"
        assert tile.right == (not wrong[n])


def test_the_test_split_stays_unseen_while_a_run_is_under_way(workdir, tmp_path):
    found = read_details(workdir, under_way=True)
    assert found.split == "validation" and found.matrix.sum() == 48
    best, record = read_best(workdir)
    record["config"]["data"]["validation_percent"] = 0.0
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save_best(1, best["params"], best["batch_stats"], record)
        checkpoints.wait()
    found = read_details(tmp_path, under_way=True)
    assert found.split == "training" and found.matrix.sum() == 192


def test_the_layers_say_what_was_trained(workdir):
    found = read_details(workdir)
    assert {row.state for row in found.layers if row.parameters} == {"trained"}
    assert found.totals["trained"] == sum(x.size for x in read_best(workdir)[0]["params"].values())


def test_the_report_shows_the_predictions_behind_the_test_results(workdir, tmp_path):
    run = shutil.copytree(workdir, tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    details = read_details(run)
    assert np.trace(details.matrix) == round(summary["test"]["accuracy"] * 50)

    write_test_logits(run, -read_test_logits(run))
    assert not np.array_equal(read_details(run).matrix, details.matrix)

    # Without logits, or with those of another step, the test split is predicted.
    summary["evaluated_step"] += 1
    (run / "summary.json").write_text(json.dumps(summary))
    np.testing.assert_array_equal(read_details(run).matrix, details.matrix)
    (run / "test_logits.npy").unlink()
    np.testing.assert_array_equal(read_details(run).matrix, details.matrix)
