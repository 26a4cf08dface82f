"""The results that a run prints."""

from flaxcifar import console
from flaxcifar.training.results import results_table

VALUES = {"loss": 1.25, "accuracy": 0.5, "top5_accuracy": 0.75, "examples": 1234}


def test_the_table_has_the_known_splits_and_superclasses_if_there_are_any(capsys):
    console.show(results_table("title", {"validation": None, "test": VALUES}))
    out = capsys.readouterr().out
    assert "1,234" in out and "50.00 %" in out
    assert "superclass" not in out and "validation" not in out
    console.show(results_table("title", {"test": VALUES | {"coarse_accuracy": 0.9}}))
    out = capsys.readouterr().out
    assert "superclass" in out and "90.00 %" in out
