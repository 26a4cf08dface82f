"""Evaluation of a trained model gives the run's own numbers."""

import dataclasses
import json

import pytest
import quick

from flaxcifar.errors import UserError
from flaxcifar.inference.evaluate import evaluate


def test_every_split_counts_each_example_once(workdir, trained):
    summary = json.loads((workdir / "summary.json").read_text())
    for split, count in (("train", 144), ("validation", 48), ("test", 50)):
        found = evaluate(trained, split)
        assert found["single"]["examples"] == count
        if split != "train":
            # Eight devices here, one in the run: another order of sums.
            assert found["single"] == pytest.approx(summary[split], rel=1e-6)
    assert evaluate(trained, "test", "mirror").keys() == {"single", "augmented"}


def test_a_run_without_validation_split_says_so(trained):
    settings = quick.config(**{"data.validation_percent": 0.0})
    with pytest.raises(UserError, match="no validation split"):
        evaluate(dataclasses.replace(trained, config=settings), "validation")
