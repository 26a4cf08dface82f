"""VGG16 with the recipe of cifar-vgg (https://github.com/geifmany/cifar-vgg).

    flaxcifar train --config vgg

Published for the recipe in Keras: 70.48 % on CIFAR-100 and 93.56 % on CIFAR-10 after 250 epochs,
with the test split used for validation. Not measured here: all 250 epochs.
"""

from flaxcifar.config import default_config


def get_config():
    config = default_config()
    config.model = dict(name="vgg16")
    config.data.normalization = "scalar"
    config.augment = (
        dict(name="affine", rotation_range=15.0, width_shift_range=0.1, height_shift_range=0.1),
        dict(name="horizontal_flip"),
    )
    config.total_epochs = 250
    config.optimizer = dict(name="sgd", learning_rate=0.1, momentum=0.9, nesterov=True)
    config.schedule = dict(name="step_halving", every_epochs=20, decay=1e-6)
    config.l2.coefficient = 5e-4
    config.l2.pattern = "(?!head/).*/kernel"
    return config
