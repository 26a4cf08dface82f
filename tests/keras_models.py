"""The networks as Keras models, written from their descriptions; the references of the tests.

A layer is called as the module here, with "." for "/". Logits, no softmax.
"""

import numpy as np

WEIGHTS = {
    "kernel": "kernel",
    "bias": "bias",
    "gamma": "scale",
    "beta": "bias",
    "moving_mean": "mean",
    "moving_variance": "var",
}


def vgg16(classes, width=64, l2=0.0, dropout=1.0):
    from keras import Input, Model, layers, regularizers

    penalty = regularizers.L2(l2) if l2 else None
    x = images = Input((32, 32, 3))
    stages = [(1, (0.3, 0)), (2, (0.4, 0))] + [(n, (0.4, 0.4, 0)) for n in (4, 8, 8)]
    for stage, (factor, rates) in enumerate(stages, 1):
        for n, rate in enumerate(rates, 1):
            x = layers.Conv2D(
                factor * width,
                3,
                padding="same",
                activation="relu",
                kernel_regularizer=penalty,
                name=f"stage{stage}.conv{n}",
            )(x)
            x = layers.BatchNormalization(name=f"stage{stage}.norm{n}")(x)
            x = layers.Dropout(rate * dropout)(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(layers.Dropout(0.5 * dropout)(x))
    x = layers.Dense(8 * width, activation="relu", kernel_regularizer=penalty, name="dense.linear")(
        x
    )
    x = layers.BatchNormalization(name="dense.norm")(x)
    x = layers.Dropout(0.5 * dropout)(x)
    return Model(images, layers.Dense(classes, name="head")(x))


def resnet(classes, widths=(128, 256, 512, 1024), dropout=0.5, shortcut_first=False):
    from keras import Input, Model, layers

    def conv(x, path, features, size, stride=1):
        return layers.Conv2D(features, size, stride, padding="same", name=path)(x)

    def norm(x, path):
        return layers.BatchNormalization(name=path)(x)

    images = Input((None, None, 3))
    x = layers.ReLU()(norm(conv(images, "stem.conv", widths[0], 3), "stem.norm"))
    x = layers.Dropout(dropout)(x)
    for stage, features in enumerate(widths, 1):
        for n in (1, 2):
            block, stride = f"stage{stage}.block{n}", 2 if n == 1 and stage > 1 else 1
            shortcut = conv(x, f"{block}.shortcut", features, 1, stride)
            shortcut = norm(shortcut, f"{block}.shortcut_norm")
            y = norm(conv(x, f"{block}.conv1", features, 3, stride), f"{block}.norm1")
            y = norm(conv(layers.ReLU()(y), f"{block}.conv2", features, 3), f"{block}.norm2")
            x = layers.Add()([shortcut, y] if shortcut_first else [y, shortcut])
            x = layers.ReLU()(x)
    x = layers.GlobalAveragePooling2D()(x)
    return Model(images, layers.Dense(classes, name="head")(x))


def crcv(classes, stages, dropout=0.1):
    from keras import Input, Model, layers

    x = images = Input((None, None, 3))
    for stage, widths in enumerate(stages, 1):
        for n, features in enumerate(widths, 1):
            x = layers.Conv2D(features, 3, padding="same", name=f"stage{stage}.conv{n}")(x)
            if n == len(widths) and stage < len(stages):
                x = layers.MaxPooling2D(2)(x)
            x = layers.BatchNormalization(name=f"stage{stage}.norm{n}")(x)
            x = layers.ReLU()(x)
        x = layers.Dropout(dropout if stage > 1 else 0)(x)
    x = layers.GlobalAveragePooling2D()(x)
    return Model(images, layers.Dense(classes, name="head")(x))


def variables(model):
    """Returns a Keras model's variables under the paths of ours."""
    return {
        f"{layer.name.replace('.', '/')}/{WEIGHTS[variable.name]}": variable
        for layer in model.layers
        for variable in layer.weights
    }


def set_weights(model, arrays):
    """Gives a Keras model the parameters and statistics of a flat dict; their paths must agree."""
    ours = variables(model)
    assert ours.keys() == arrays.keys()
    for path, variable in ours.items():
        variable.assign(np.asarray(arrays[path]))


def get_weights(model):
    """Returns them as a flat dict."""
    return {path: np.asarray(variable) for path, variable in variables(model).items()}


def train(model, images, labels, learning_rate):
    """Returns each step's loss under SGD with Nesterov momentum 0.875; images [steps, B, ...]."""
    import keras
    import tensorflow as tf

    optimizer = keras.optimizers.SGD(learning_rate, momentum=0.875, nesterov=True)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = cross_entropy(y, model(x, training=True)) + sum(model.losses)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    return np.array([float(step(x, y)) for x, y in zip(images, labels, strict=True)])
