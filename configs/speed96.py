"""CIFAR-10 beyond the fastest recipe, after airbench96_faster: the hardest half of each batch.

    python -m flaxcifar.main --config configs/speed96.py

Published for the recipe in PyTorch: 96.00 % with several views (n = 200), 27.3 s on an A100. On
CIFAR-10 as JPEG (quality 75), one NVIDIA H200: 22 s of training and 33 of compiling, test accuracy
91.91 +- 0.24 % with a single view and 92.78 +- 0.17 % with six (3 seeds). On 2 CPU cores its 45
epochs take hours, and were not run.
"""

from flaxcifar.config import default_config


def get_config():
    config = default_config()
    # Heads start with deviation 1 here; the scale of the logits makes up for it.
    config.model = dict(
        name="speednet", widths=(128, 384, 512), depth=3, logit_scale=1 / 350, norm_momentum=0.9
    )
    config.data.name = "cifar10"
    config.data.pipeline = "resident"
    config.data.validation_percent = 0.0
    config.augment = (
        dict(name="alternating_flip"),
        dict(name="pad_crop", padding=4),
        dict(name="cutout", size=12),
    )
    config.precision = "bfloat16"
    config.batch_size = 1024
    config.eval_batch_size = 1000
    config.total_epochs = 45
    config.selection.keep_percent = 50.0
    config.proxy = dict(
        name="speednet", widths=(32, 64, 64), logit_scale=1 / 350, norm_momentum=0.9
    )
    config.label_smoothing = 0.2
    sgd = dict(name="sgd", momentum=0.85, nesterov=True, decay=0.00157)
    config.optimizer = dict(sgd, learning_rate=0.587)
    config.schedule = dict(
        name="one_cycle", rise_percent=10, start_scale=0.2, end_scale=0.0, anneal="linear"
    )
    config.param_groups = (
        ("whiten/kernel", "frozen"),
        (".*/bias", dict(sgd, learning_rate=37.6)),
        ("head", dict(sgd, learning_rate=900.0)),
    )
    config.lookahead.every_steps = 5
    config.early_stopping.restore_best = False
    config.test_views = "mirror_shift"
    return config
