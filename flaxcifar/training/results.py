"""Results of a finished run: test evaluation, `summary.json` and the final table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxcifar import console
from flaxcifar.config import to_json
from flaxcifar.config.changes import config_changes
from flaxcifar.devices import parallel, processes
from flaxcifar.errors import UserError
from flaxcifar.models.summary import model_summary
from flaxcifar.training.experiment import Experiment
from flaxcifar.training.provenance import commit, versions
from flaxcifar.training.run_record import RunRecord
from flaxcifar.training.session import Session
from flaxcifar.workdir import names
from flaxcifar.workdir.checkpoints import Checkpoints
from flaxcifar.workdir.json_files import write_json
from flaxcifar.workdir.summary_file import read_summary
from flaxcifar.workdir.test_logits import write_test_logits

# The stop reason of a run that may go on.
STOPPED = "stopped by a callback"


def is_finished(workdir: Path, config: Any, checkpoints: Checkpoints) -> bool:
    """Returns whether `workdir` holds the finished run of this config, and prints its results.

    Raises UserError if it does, but the newest checkpoint is damaged.
    """
    summary = read_summary(workdir)
    if (
        summary is None
        or summary["stop_reason"] == STOPPED
        or {"total_epochs", "total_steps"} & config_changes(summary["config"], config).keys()
    ):
        return False
    if damage := checkpoints.damage():
        raise UserError(
            f"{workdir} holds this run, finished, but its newest checkpoint is damaged: {damage}; "
            f"the results are kept in {workdir / names.SUMMARY}; without that file, the same "
            "command trains again from an older checkpoint, if there is one"
        )
    console.say(f"{workdir} holds this run, finished ({summary['stop_reason']}): nothing to do")
    show_results(summary)
    return True


def conclude(session: Session, record: RunRecord) -> None:
    """Evaluates the best checkpoint on the test split and writes its logits and `summary.json`."""
    config, test = session.experiment.config, session.experiment.dataset.test
    best, best_record = processes.from_first(
        lambda: list(session.checkpoints.restore_best(strict=True) or ())
    )
    best, indices = parallel.replicate(best), np.arange(len(test))
    evaluation = session.evaluate(
        best["params"], best["batch_stats"], test, indices, config.test_views, keep_logits=True
    )
    summary = summarize(session.experiment, record, best_record["history"][-1], evaluation.metrics)
    workdir = session.workdir
    (workdir / names.REPORT).unlink(missing_ok=True)  # of a shorter run
    assert evaluation.logits is not None  # kept
    write_test_logits(workdir, evaluation.logits)
    write_json(workdir / names.SUMMARY, summary)  # last: a run with a summary is complete
    show_results(summary)
    console.say(f"summary: {workdir / names.SUMMARY}; checkpoints: {workdir / names.CHECKPOINTS}")
    console.say(f"evaluate it again: python -m flaxcifar evaluate --workdir {workdir}")


def summarize(
    experiment: Experiment,
    record: RunRecord,
    best: Mapping[str, Any],
    test: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """Returns the content of `summary.json`.

    Args:
      best: the row of metrics.jsonl of the evaluated checkpoint.
      test: the metrics of the test split.
    """
    dataset, recipe, step = experiment.dataset, experiment.recipe, record.history[-1]["step"]
    if step == experiment.total_steps:
        reason = "completed"
    else:
        reason = "early stopping" if record.stopping.should_stop else STOPPED
    validation = {
        name.removeprefix("validation_"): value
        for name, value in best.items()
        if name.startswith("validation_")
    }
    _, totals = model_summary(recipe.network, dataset.train.images.shape[1:], recipe.frozen)
    clock = record.clock.state()
    return {
        "steps": step,
        "epochs": step / recipe.steps_per_epoch,
        "stop_reason": reason,
        "evaluated_step": best["step"],
        "parameters": totals,
        "dataset": {
            "name": dataset.name,
            "classes": len(dataset.class_names),
            "train_examples": len(experiment.train_indices),
            "fingerprint": dataset.fingerprint,
        },
        "devices": [device.device_kind for device in jax.devices()],
        "convolution": recipe.network.convolution,
        "versions": versions(),
        "commit": commit(),
        "validation": validation or None,
        "test": test["single"],
        "test_augmented": test.get("augmented"),  # of the mean logits over `test_views`
        "config": to_json(experiment.config),
        # Only these differ between runs of one config, and between a run and its resumption.
        "timing": {
            "images_per_second": record.clock.images_per_second,
            "compile_seconds": clock["compile_seconds"],
            "total_seconds": clock["total_seconds"],
        },
    }


def show_results(summary: dict[str, Any]) -> None:
    """Prints the final table of a summary."""
    title = f"{summary['config']['model']['name']} on {summary['dataset']['name']}"
    title += f", parameters of step {summary['evaluated_step']:,}"
    results = {
        "validation": summary["validation"],
        "test": summary["test"],
        f"test, {summary['config']['test_views']}": summary["test_augmented"],
    }
    console.show(results_table(title, results))
    timing = summary["timing"]
    console.say(
        f"{summary['steps']:,} steps ({summary['epochs']:.4g} epochs) in "
        f"{console.clock_time(timing['total_seconds'])}, {timing['compile_seconds']:.1f} s of it "
        f"compilation; {timing['images_per_second']:,.0f} images/s"
    )


def results_table(title: str, results: Mapping[str, Mapping[str, float] | None]) -> console.Table:
    """Returns a table with a row per split; splits whose metrics are None are left out."""
    found = {split: values for split, values in results.items() if values is not None}
    coarse = any("coarse_accuracy" in values for values in found.values())
    known = {"examples", "accuracy", "top5_accuracy", "loss", "coarse_accuracy"}
    own = list(
        dict.fromkeys(key for values in found.values() for key in values if key not in known)
    )
    headings = ["split", "examples", "accuracy", "top-5 accuracy", "loss"]
    rows = [
        (
            split,
            f"{values['examples']:,}",
            console.percent(values["accuracy"]),
            console.percent(values["top5_accuracy"]),
            f"{values['loss']:.4f}",
            *([console.percent(values["coarse_accuracy"])] if coarse else []),
            *(f"{values[key]:.4f}" for key in own),
        )
        for split, values in found.items()
    ]
    headings += ["superclass accuracy"] * coarse + own
    return console.table(title, headings, rows)
