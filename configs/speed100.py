"""CIFAR-100 in ten epochs: residual convolutions trained by Muon, small images first.

    flaxcifar train --config speed100

Based on recipes that reach 75 % in 8 to 10 epochs (futurebiohackers, NAVIER-STOKED), with this
project's network. Not measured on CIFAR-100. On tinyimagenet100, a dataset of the same shape, 2
cores of an AMD EPYC (Zen 4), cold process:

    config                            n  whole command        one view               six views
    speed100, 490 steps (9.8 epochs)  2  19:39 and 20:23 min  57.96 % (58.22, 57.70) 59.50 %
    crcv, 56 epochs, no validation    1  20:35 min            42.02 %                44.40 %

The two runs reach 59.60 and 59.40 % with six views.
"""

from flaxcifar.config import default_config


def get_config():
    config = default_config()
    config.model = dict(
        name="speednet", widths=(64, 256, 512), depth=3, activation="silu", logit_scale=1 / 256
    )
    config.data.name = "cifar100"
    config.data.pipeline = "resident"
    config.data.validation_percent = 0.0
    config.augment = (dict(name="alternating_flip"), dict(name="pad_crop", padding=2))
    config.progressive_sizes = ((30, 20), (60, 24))
    config.precision = "bfloat16"
    config.batch_size = 1000
    config.eval_batch_size = 1000
    config.total_epochs = 10
    config.label_smoothing = 0.25
    sgd = dict(name="sgd", momentum=0.85, nesterov=True, decay=0.002)
    config.optimizer = dict(sgd, learning_rate=53.0)
    config.schedule = dict(name="linear")
    muon = dict(name="muon", learning_rate=0.25, momentum=0.6, ns_steps=3, normalize=True)
    config.param_groups = (
        ("whiten/kernel", "frozen"),
        ("stage[0-9]+/conv[0-9]+", muon),
        ("head", dict(sgd, learning_rate=1340.0)),
    )
    config.early_stopping.restore_best = False
    config.test_views = "mirror_shift"
    return config
