"""CIFAR-10 in minutes, after airbench94_muon, which reaches 94 % on the original images.

    flaxcifar train --config speed94

JPEG copies of CIFAR-10 (quality 75), cold process, test accuracy in percent:

    device                       n  whole command              one view       six views
    2 cores, AMD EPYC (Zen 4)    3  12:11 min (12:07 to 12:12) 89.75 +- 0.20  90.82 +- 0.16
    2 cores, Intel Xeon (AMX)    3  7:53 min (7:45 to 8:05)    89.99 +- 0.14  90.86 +- 0.17
    NVIDIA H200                  5  2 s training, 58 compiling 89.85 +- 0.12  90.86 +- 0.19

The Xeon ran older code. The original recipe in PyTorch reaches 89.7 and 90.6 % on these images
(n = 1).

The learning rates are airbench's. Small images in the first half of the run pay for two epochs more
than airbench's eight.
"""

from flaxcifar.config import default_config


def get_config():
    config = default_config()
    config.model = dict(name="speednet", widths=(64, 256, 256), logit_scale=1 / 256)
    config.data.name = "cifar10"
    config.data.pipeline = "resident"
    config.data.validation_percent = 0.0
    config.augment = (dict(name="alternating_flip"), dict(name="pad_crop", padding=2))
    config.progressive_sizes = ((25, 20), (50, 24))
    config.precision = "bfloat16"
    config.batch_size = 2000
    config.eval_batch_size = 2000
    config.total_epochs = 10
    config.label_smoothing = 0.2
    # The rate is large because the logits are divided by 256.
    sgd = dict(name="sgd", momentum=0.85, nesterov=True, decay=0.004)
    config.optimizer = dict(sgd, learning_rate=106.0)
    config.schedule = dict(name="linear")
    muon = dict(name="muon", learning_rate=0.24, momentum=0.6, ns_steps=3, normalize=True)
    config.param_groups = (
        ("whiten/kernel", "frozen"),
        ("whiten", dict(config.optimizer, schedule=dict(name="linear", over_epochs=3))),
        ("stage[0-9]+/conv[0-9]+", muon),
        ("head", dict(sgd, learning_rate=1340.0)),
    )
    config.early_stopping.restore_best = False
    config.test_views = "mirror_shift"
    return config
