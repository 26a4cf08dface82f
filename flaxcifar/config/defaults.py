"""Every knob with its default, and configs as plain values."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

# Sections that name a registered function; its further keywords are the registry's to check.
NAMED = ("model", "optimizer", "schedule", "proxy")


def default_config() -> ConfigDict:
    """Returns every knob at its default; a file under `configs/` overrides a few of them.

    `dict(name=..., **kwargs)` names a registered function; its own keywords may be added. Durations
    inside such a dict end in `_steps`, `_epochs` or `_percent` (of the whole run). The config is
    locked: setting a key that does not exist is an error at once.
    """
    c = ConfigDict()
    # The random seed of everything: initial parameters, split, order, augmentation, dropout.
    c.seed = 0
    # A function of flaxcifar/models and its keywords.
    c.model = ConfigDict({"name": "crcv"})
    # Compute precision of the model: float32 or bfloat16; parameters and logits are float32.
    c.precision = "float32"

    c.data = ConfigDict()
    # cifar10, cifar100, any other TFDS image classification dataset, folder or synthetic.
    c.data.name = "cifar100"
    # Where it lies: a TFDS data_dir, an archive or its folder, an image folder; "" = download.
    c.data.dir = ""
    # Images are resized to this height and width when they are decoded.
    c.data.image_size = 32
    # Share of the training split that is held out for early stopping and model choice.
    c.data.validation_percent = 10.0
    # Statistics of the training images: "channel", "scalar" (one for all) or "unit" (/ 255).
    c.data.normalization = "channel"
    # "host" (tf.data) or "resident" (the whole dataset on the device).
    c.data.pipeline = "host"
    # Where the images take more than so many GB each batch is read from disk when it is needed;
    # 0 = half of the machine's memory. It changes no result.
    c.data.memory_gb = 0.0
    # Decoded images are kept here; "" = ~/.cache/flaxcifar.
    c.data.cache_dir = ""

    # Augmentations in order, each dict(name=..., **kwargs) of flaxcifar/data/augment.py.
    c.augment = ()
    # (percent, size) pairs, in order: until that percent of the run the training images are resized
    # to size x size; afterwards they are as they are. One program is compiled for each size.
    c.progressive_sizes = ()

    # Global batch: split evenly over all devices.
    c.batch_size = 128
    c.selection = ConfigDict()
    # Train on so many percent of every batch, those that a small network finds hardest; 100 = all.
    c.selection.keep_percent = 100.0
    # It trains on every so many batches.
    c.selection.every_steps = 4
    # That network, a function of flaxcifar/models and its keywords; it has the same optimizer,
    # schedule and groups, so that the groups' patterns have to match its parameters, too.
    c.proxy = ConfigDict({"name": "speednet", "widths": (32, 64, 64)})
    # Global batch of evaluation; padded and masked, so it changes no result.
    c.eval_batch_size = 512
    # Length of the run in epochs, or in steps where total_steps is not 0.
    c.total_epochs = 200
    c.total_steps = 0
    # Steps that one dispatch runs on the device; 0 = as the platform likes best.
    c.steps_per_dispatch = 0

    c.ops = ConfigDict()
    # Convolutions on a CPU: "onednn" (compiled code, extra `cpu`), "jax" (plain JAX on XLA's fast
    # paths), "xla" (XLA's own) or "auto", the first of them that is there. Elsewhere it is XLA's.
    c.ops.convolution = "auto"

    # An optimizer of optax (or of flaxcifar/optim/optimizers.py) and its keywords.
    c.optimizer = ConfigDict({"name": "sgd", "learning_rate": 0.1, "momentum": 0.9})
    # How the learning rate changes: a function of flaxcifar/optim/schedules.py and its keywords.
    c.schedule = ConfigDict({"name": "constant"})
    # (pattern, group) pairs, first match wins: a group is a scale of the learning rate, "frozen",
    # or an optimizer of its own, dict(name=..., **kwargs), maybe with a `schedule` of its own.
    c.param_groups = ()
    # Largest global norm of the gradient; 0 = no clipping.
    c.gradient_clip = 0.0
    # Batches whose gradients are averaged into one update.
    c.accumulation_steps = 1
    # Decay of the exponential moving average of the parameters that is evaluated; 0 = none.
    c.ema_decay = 0.0
    c.lookahead = ConfigDict()
    # After every so many steps slow weights move towards the trained ones, which are then set to
    # them; the slow ones are evaluated; 0 = none. It excludes ema_decay.
    c.lookahead.every_steps = 0
    # What the slow weights keep of themselves then, at the end of the run.
    c.lookahead.decay = 0.77
    # Before, it is decay * (share of the run that is done) ** power.
    c.lookahead.power = 3.0
    # Share of the target probability that is spread evenly over all classes.
    c.label_smoothing = 0.0
    # Adds coefficient * sum(parameter ** 2) of the parameters that match to the loss.
    c.l2 = ConfigDict({"coefficient": 0.0, "pattern": ".*/kernel"})

    c.early_stopping = ConfigDict()
    # Evaluations without improvement after which training stops; 0 = never.
    c.early_stopping.patience = 0
    # The validation metric that chooses the best checkpoint, too: loss, accuracy, top5_accuracy.
    c.early_stopping.metric = "loss"
    # "min" or "max".
    c.early_stopping.mode = "min"
    # A smaller change is no improvement.
    c.early_stopping.min_delta = 0.0
    # Evaluate the test split with the best parameters instead of the last.
    c.early_stopping.restore_best = True
    # The test split is also evaluated by the mean over several views of each image: "none",
    # "mirror", or "mirror_shift" (airbench's six views); the result is reported apart.
    c.test_views = "none"

    c.checkpoint = ConfigDict()
    # Everything that resume needs is saved after every so many epochs; 0 = after the last only.
    c.checkpoint.every_epochs = 1
    # Within an epoch it is saved when so many minutes have passed since the last time; 0 = never.
    c.checkpoint.every_minutes = 10.0
    # Or when so many steps have passed; 0 = never.
    c.checkpoint.every_steps = 0
    # Write report.html at the end: a page with curves, confusion, mistakes and more.
    c.report = True
    # When the loss is no longer finite: "stop", or "rollback": go back to the last checkpoint with
    # half the learning rate, three times at most.
    c.on_nonfinite = "stop"

    # The workdir of an earlier run whose best parameters this one starts from; "" = none.
    c.init_from = ""
    # Start the head anew even where its shape agrees.
    c.init_drop_head = False
    return locked(c)


def to_json(config: Mapping | ConfigDict) -> dict:
    """Returns the config as a plain dict, for `json.dump`."""
    return plain(config)


def from_json(data: Mapping) -> ConfigDict:
    """Returns the locked config of such a dict; the lists that JSON makes of tuples are tuples."""
    return locked(ConfigDict(plain(data)))


def locked(config: ConfigDict) -> ConfigDict:
    """Locks every section but those whose keywords depend on a name."""
    config.lock()
    for section in NAMED:
        if isinstance(config.get(section), ConfigDict):
            config[section].unlock()
    return config


def plain(value: Any) -> Any:
    """Returns configs and mappings as dicts, and lists as tuples, all the way down."""
    if isinstance(value, Mapping | ConfigDict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(plain(item) for item in value)
    return value
