"""What a run says before its first step, and what it leaves behind after its last."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxcifar import console
from flaxcifar.config import to_json
from flaxcifar.config.changes import config_changes
from flaxcifar.devices import parallel, processes
from flaxcifar.models.summary import model_summary
from flaxcifar.training.evaluation import Evaluate
from flaxcifar.training.experiment import Experiment
from flaxcifar.training.provenance import commit, versions
from flaxcifar.training.run_record import Ledger
from flaxcifar.training.step import TrainState
from flaxcifar.workdir import names
from flaxcifar.workdir.checkpoints import Checkpoints
from flaxcifar.workdir.json_files import read_json, write_json


def introduce(experiment: Experiment, step: int, workdir: Path) -> None:
    """Prints what is about to be trained, from which step, on what, and where it goes."""
    config, dataset, recipe = experiment.config, experiment.dataset, experiment.recipe
    shape = dataset.train.images.shape[1:]
    table, totals = model_summary(recipe.network, shape, recipe.frozen)
    console.show(table)
    devices = jax.devices()
    console.say(
        f"{dataset.name}: {len(experiment.train_indices):,} training, "
        f"{len(experiment.validation_indices):,} validation and {len(dataset.test.labels):,} test "
        f"images, {len(dataset.class_names)} classes"
    )
    console.say(
        f"{len(devices)} x {devices[0].device_kind}: batch {config.batch_size}, "
        f"{parallel.per_device(config.batch_size)} a device; {recipe.steps_per_epoch} steps an "
        f"epoch, {experiment.total_steps:,} in all; {config.precision}, convolutions by "
        f"{recipe.network.convolution}"
    )
    if recipe.frozen:
        flops = "training_flops_per_image"
        share = totals[flops] / model_summary(recipe.network, shape)[1][flops]
        console.say(
            f"frozen: {totals['frozen']:,} of {totals['frozen'] + totals['trained']:,} parameters; "
            f"a step takes {100 * share:.0f} % of the operations that training them all would"
        )
    for remark in experiment.remarks:
        console.say(remark)
    if step:
        console.say(f"resumed after step {step:,} of {experiment.total_steps:,}")
    console.say(f"workdir: {workdir}")


def is_finished(workdir: Path, config: Any) -> bool:
    """Whether this very run has ended before; says so if it has."""
    summary = read_json(workdir / names.SUMMARY)
    if (
        summary is None
        or {"total_epochs", "total_steps"} & config_changes(summary["config"], config).keys()
    ):
        return False
    console.say(f"{workdir} holds this run, finished ({summary['stop_reason']}): nothing to do")
    show_results(summary)
    return True


def conclude(
    experiment: Experiment,
    state: TrainState,
    ledger: Ledger,
    evaluate: Evaluate,
    checkpoints: Checkpoints,
    workdir: Path,
) -> None:
    """Evaluates the test split, once, writes summary.json and prints the final table.

    The parameters are the best epoch's where `early_stopping.restore_best` is set, else the last's.
    """
    config, dataset = experiment.config, experiment.dataset
    params, batch_stats, row = state.eval_params, state.batch_stats, ledger.history[-1]
    if config.early_stopping.restore_best:
        best, record = processes.from_first(lambda: list(checkpoints.restore_best()))
        best, row = parallel.replicate(best), record["history"][-1]
        params, batch_stats = best["params"], best["batch_stats"]
    everything = np.arange(len(dataset.test.labels))
    test = evaluate(params, batch_stats, dataset.test, everything, config.test_views)
    _, totals = model_summary(
        experiment.recipe.network, dataset.train.images.shape[1:], experiment.recipe.frozen
    )
    clock, step = ledger.clock.state(), ledger.history[-1]["step"]
    stopped = ledger.stopping.should_stop and step < experiment.total_steps
    summary = {
        "steps": step,
        "epochs": step / experiment.recipe.steps_per_epoch,
        "stop_reason": "early stopping" if stopped else "completed",
        "evaluated_step": row["step"],
        "parameters": totals,
        "dataset": {
            "name": dataset.name,
            "classes": len(dataset.class_names),
            "train_examples": len(experiment.train_indices),
            "fingerprint": dataset.fingerprint,
        },
        "devices": [device.device_kind for device in jax.devices()],
        "convolution": experiment.recipe.network.convolution,
        "versions": versions(),
        "commit": commit(),
        "validation": {
            name.removeprefix("validation_"): value
            for name, value in row.items()
            if name.startswith("validation_")
        }
        or None,
        "test": test["single"],
        # By the mean over the views of `test_views`.
        "test_augmented": test.get("augmented"),
        "config": to_json(config),
        # All that differs between two runs of one config, or between a run and its resumption.
        "timing": {
            "images_per_second": ledger.clock.images_per_second,
            "compile_seconds": clock["compile_seconds"],
            "total_seconds": clock["total_seconds"],
        },
    }
    # That of a shorter run, if any; it is written last, so one that is there is whole.
    (workdir / names.REPORT).unlink(missing_ok=True)
    write_json(workdir / names.SUMMARY, summary)
    show_results(summary)
    console.say(f"summary: {workdir / names.SUMMARY}; checkpoints: {workdir / names.CHECKPOINTS}")
    console.say(f"evaluate it again: python -m flaxcifar evaluate --workdir {workdir}")


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
    headings = ("split", "examples", "accuracy", "top-5 accuracy", "loss")
    rows = [
        (
            split,
            f"{values['examples']:,}",
            console.percent(values["accuracy"]),
            console.percent(values["top5_accuracy"]),
            f"{values['loss']:.4f}",
            *([console.percent(values["coarse_accuracy"])] if coarse else []),
        )
        for split, values in found.items()
    ]
    return console.table(title, (*headings, *(["superclass accuracy"] if coarse else [])), rows)
