"""The start-up banner of a run."""

from pathlib import Path

import jax

from flaxcifar import console
from flaxcifar.devices import parallel
from flaxcifar.models.summary import model_summary, summary_table
from flaxcifar.optim.param_groups import group_words
from flaxcifar.training.experiment import Experiment


def show_banner(experiment: Experiment, step: int, workdir: Path) -> None:
    """Prints the model, data, devices and length of a run that starts after `step`."""
    config, dataset, recipe = experiment.config, experiment.dataset, experiment.recipe
    shape = dataset.train.images.shape[1:]
    how = group_words(experiment.groups)
    layers, totals = model_summary(recipe.network, shape, recipe.frozen, how)
    console.show(summary_table(layers, totals))
    console.say(
        f"{dataset.name}: {len(experiment.train_indices):,} training, "
        f"{len(experiment.validation_indices):,} validation and {len(dataset.test):,} test "
        f"images, {len(dataset.class_names)} classes"
    )
    devices = jax.devices()
    console.say(
        f"{len(devices)} x {devices[0].device_kind}: batch size {config.batch_size}, "
        f"{parallel.per_device(config.batch_size)} per device; {recipe.steps_per_epoch} steps per "
        f"epoch, {experiment.total_steps:,} in total; {config.precision}, "
        f"convolutions by {recipe.network.convolution}"
    )
    if recipe.frozen:
        flops = "training_flops_per_image"
        share = totals[flops] / model_summary(recipe.network, shape)[1][flops]
        console.say(
            f"frozen: {totals['frozen']:,} of {totals['frozen'] + totals['trained']:,} parameters; "
            f"a step takes {100 * share:.0f} % of the operations of training all of them"
        )
    for remark in experiment.remarks:
        console.say(remark)
    if step:
        console.say(f"resumed after step {step:,} of {experiment.total_steps:,}")
    console.say(f"workdir: {workdir}")
