import json
import re
import sys

import h5py
import jax
import keras_models
import numpy as np
import pytest
import quick
import tiny

from flaxcifar.cli import keras_weights as command
from flaxcifar.config import default_config
from flaxcifar.data.normalization import Normalization
from flaxcifar.devices import parallel
from flaxcifar.errors import RunError, UserError
from flaxcifar.inference.evaluate import evaluate
from flaxcifar.inference.trained import Trained
from flaxcifar.keras_weights import convert
from flaxcifar.models.crcv import SIZES
from flaxcifar.training.loop import train_and_evaluate
from flaxcifar.workdir.checkpoints import read_best

# Of Keras on TensorFlow with NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

STAGES = ((4,), (8,), (8, 8), (16,))
CLASSES = tiny.CLASSES
SPECS = {
    "vgg16": (dict(name="vgg16", width=2), keras_models.vgg16, dict(width=2), 32),
    "resnet": (
        dict(name="resnet", widths=(4, 8)),
        keras_models.resnet,
        dict(widths=(4, 8)),
        8,
    ),
    "crcv": (dict(name="crcv", size="slim"), keras_models.crcv, dict(stages=STAGES), 8),
}
ENDINGS = ("legacy.h5", "whole.h5", ".weights.h5", ".keras")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A narrow crcv."""
    monkeypatch.setitem(SIZES, "slim", STAGES)


def make_config(name, **changes):
    config = quick.config(**changes)
    config.model, size = SPECS[name][0], SPECS[name][3]
    config.data.image_size = size
    config.ops.convolution = "xla"
    return config


def make_model(name, seed=0, **changes):
    """Returns a Keras model all of whose weights differ."""
    _, build, keywords, _ = SPECS[name]
    return randomized(build(CLASSES, **keywords, **changes), seed)


def randomized(model, seed=0):
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        kernel = variable.name == "kernel"
        size = np.sqrt(6 / np.prod(variable.shape[:-1])) if kernel else 0.2
        start = 1 if variable.name in ("gamma", "moving_variance") else 0
        variable.assign(start + size * rng.uniform(-1, 1, variable.shape))
    return model


def save(model, path):
    """Writes the model as the name of the file says."""
    from keras.src.legacy.saving import legacy_h5_format

    if path.name.endswith("legacy.h5"):
        with h5py.File(path, "w") as file:
            legacy_h5_format.save_weights_to_hdf5_group(file, model)
    elif path.name.endswith(".weights.h5"):
        model.save_weights(path)
    elif path.name.endswith("whole.h5"):
        legacy_h5_format.save_model_to_hdf5(model, path)
    else:
        model.save(path)
    return path


def without_keras(monkeypatch):
    """From here on, `import keras` fails."""
    monkeypatch.setitem(sys.modules, "keras", None)


def logits_of(workdir, images):
    trained = Trained.from_workdir(workdir)
    # The program of `compare.compare`, which is compiled once.
    apply = jax.jit(lambda *args: trained.network.apply(*args, None, train=False)[0])
    with jax.default_matmul_precision("highest"):
        return np.asarray(apply(*trained.variables, images))


def check_exact(workdir, model):
    best, _ = read_best(workdir)
    found, expected = best["params"] | best["batch_stats"], keras_models.get_weights(model)
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)


@pytest.mark.parametrize("name", ["resnet", "crcv"])
def test_every_weight_comes_to_its_place_from_every_format(name, tmp_path, monkeypatch, capsys):
    model = make_model(name)
    paths = [save(model, tmp_path / f"it{ending}") for ending in ENDINGS]
    without_keras(monkeypatch)
    for n, path in enumerate(paths):
        convert.read(path, tmp_path / f"run{n}", make_config(name))
        check_exact(tmp_path / f"run{n}", model)
        assert "not compared with Keras" in capsys.readouterr().out


@pytest.mark.parametrize("ending", [".weights.h5", "whole.h5"])
def test_a_resnet_whose_shortcuts_come_first(ending, tmp_path, capsys):
    model = make_model("resnet", shortcut_first=True)
    path = save(model, tmp_path / f"it{ending}")
    convert.read(path, tmp_path / "run", make_config("resnet"))
    check_exact(tmp_path / "run", model)
    assert "on 8 random images differ by at most" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "source", "target"),
    [
        ("vgg16", "legacy.h5", ".weights.h5"),
        ("resnet", ".keras", ".h5"),
        ("crcv", ".weights.h5", ".keras"),
    ],
)
def test_logits_are_those_of_keras_both_ways(name, source, target, tmp_path):
    import keras

    model, size = make_model(name), SPECS[name][3]
    images = np.random.default_rng(1).normal(size=(8, size, size, 3)).astype(np.float32)
    expected = np.asarray(model(images, training=False))
    assert expected.std(axis=0).min() > 0.01
    path, output = save(model, tmp_path / f"it{source}"), tmp_path / f"out{target}"
    convert.read(path, tmp_path / "run", make_config(name))
    assert np.abs(logits_of(tmp_path / "run", images) - expected).max() < 1e-4
    convert.write(output, tmp_path / "run")
    found = make_model(name, seed=1)
    found.load_weights(output)
    check_exact(tmp_path / "run", found)
    if target != ".weights.h5":
        found = keras.models.load_model(output, compile=False)
        assert np.abs(np.asarray(found(images, training=False)) - expected).max() < 1e-4
    assert {*tmp_path.iterdir()} == {path, output, tmp_path / "run"}


ORDER = ("conv", "pool", "norm", "relu")


def sequential(order=ORDER, epsilon=1e-3, activation="relu", pool="MaxPooling2D", last=None):
    """Returns a crcv as people write it, with its softmax."""
    from keras import Sequential, layers

    model = Sequential([layers.Input((8, 8, 3))])
    for n, features in enumerate(f for stage in STAGES for f in stage):
        parts = {
            "conv": layers.Conv2D(features, 3, padding="same"),
            "norm": layers.BatchNormalization(epsilon=epsilon),
            "relu": layers.Activation(activation),
            "pool": getattr(layers, pool)(2),
        }
        for part in order:
            if part != "pool" or n in (0, 1, 3):
                model.add(parts[part])
        model.add(layers.Dropout(0.1))
    model.add(layers.GlobalAveragePooling2D())
    for layer in last or [layers.Dense(CLASSES, activation="softmax")]:
        model.add(layer)
    return model


def softmaxes():
    from keras import layers

    return [
        [layers.Dense(CLASSES, activation="softmax")],
        [layers.Dense(CLASSES), layers.Activation("softmax")],
        [layers.Dense(CLASSES), layers.Softmax()],
        [layers.Dense(CLASSES)],
    ]


@pytest.mark.parametrize("number", range(4))
def test_a_network_is_compared_before_its_softmax(number, tmp_path):
    model = randomized(sequential(last=softmaxes()[number]))
    for ending in ("whole.h5", ".keras"):
        path = save(model, tmp_path / f"it{ending}")
        convert.read(path, tmp_path / f"run{ending}", make_config("crcv"))
        assert (tmp_path / f"run{ending}").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            dict(epsilon=1e-5),
            r"the epsilon of its batch_normalization\w* is 1e-05, here it is 0.001",
        ),
        (
            dict(activation="elu"),
            r"the activation of its activation\w* is elu, here it is relu; nothing was written",
        ),
        (
            dict(order=("conv", "pool", "relu", "norm")),
            r"its activation\w* is activation relu, but BatchNormalization is expected",
        ),
        (
            dict(pool="AveragePooling2D"),
            r"its average\w+ is AveragePooling2D, but MaxPooling2D is expected",
        ),
    ],
)
def test_a_whole_model_that_computes_something_else_is_refused_without_keras(
    changes, message, tmp_path, monkeypatch
):
    model = randomized(sequential(**changes))
    for ending in ("whole.h5", ".keras"):
        path = save(model, tmp_path / f"it{ending}")
        with monkeypatch.context() as patch, pytest.raises(UserError, match=message):
            without_keras(patch)
            convert.read(path, tmp_path / "run", make_config("crcv"))
        assert not (tmp_path / "run").exists()


def test_what_weights_alone_do_not_tell_is_said(tmp_path, capsys):
    model = randomized(sequential(activation="elu", epsilon=1e-5, pool="AveragePooling2D"))
    convert.read(save(model, tmp_path / "it.weights.h5"), tmp_path / "run", make_config("crcv"))
    words = "weights match by shape; the file does not say activation, order, pooling, epsilon"
    assert words in capsys.readouterr().out


@pytest.mark.parametrize("ending", ["legacy.h5", ".weights.h5"])
def test_the_first_layer_that_differs_is_named(ending, tmp_path):
    def refusal(build, config, **keywords):
        path = save(build(CLASSES, **keywords), tmp_path / f"it{ending}")
        with pytest.raises(UserError) as caught:
            convert.read(path, tmp_path / "run", config)
        assert str(path) in str(caught.value) and not (tmp_path / "run").exists()
        return str(caught.value)

    crcv = make_config("crcv")
    words = refusal(keras_models.crcv, crcv, stages=((4,), (8,), (8, 9), (16,)))
    assert re.search(r"(conv2d_3|stage3.conv2) is \[3, 3, 8, 9\] \[9\]", words)
    assert "for stage3/conv2 a convolution [3, 3, 8, 8] [8] is expected" in words
    words = refusal(keras_models.crcv, crcv, stages=((4,), (8,), (8, 8)))
    assert "for stage4/conv1 a convolution [3, 3, 8, 16] [16] is expected" in words
    words = refusal(keras_models.crcv, crcv, stages=((4,), (8,), (8, 8), (16, 16)))
    if ending == "legacy.h5":
        assert "its stage4.conv2 is [3, 3, 16, 16] [16], for head a dense" in words
    else:
        assert (
            "its batch_normalization_5 [16] [16] [16] [16] comes after the last layer expected"
            in words
        )
    # The second block's shortcut does not fit, and it is before the others in the file's order.
    words = refusal(keras_models.resnet, make_config("resnet"), widths=(4, 9), shortcut_first=True)
    assert "for stage2/block1/conv1 a convolution [3, 3, 4, 8] [8] is expected" in words


def test_without_the_dataset_preprocessing_must_be_given(tmp_path, monkeypatch, capsys):
    path = save(make_model("crcv"), tmp_path / "it.weights.h5")
    without_keras(monkeypatch)
    config = make_config("crcv", **{"data.dir": str(tmp_path / "data")})
    with pytest.raises(UserError, match="cannot read .*; or give .* --mean and --std"):
        convert.read(path, tmp_path / "run", config)
    assert not (tmp_path / "run").exists()
    convert.read(path, tmp_path / "run", config, Normalization((1.0,), (2.0,)))
    assert "named by numbers" in capsys.readouterr().out
    _, record = read_best(tmp_path / "run")
    assert record["class_names"] == ["0", "1", "2", "3"] and record["fingerprint"] is None
    assert record["normalization"] == {"mean": [1.0], "std": [2.0]}
    # Whether a dataset that comes later is the right one is not known.
    trained = Trained.from_workdir(tmp_path / "run")
    tiny.write(tmp_path / "data")
    assert evaluate(trained)["single"]["examples"] == 50
    tiny.write(tmp_path / "data", classes=5)
    with pytest.raises(UserError, match="is not the one"):
        trained.load_dataset()


def test_preprocessing_and_names_are_the_datasets(tmp_path, monkeypatch):
    path = save(make_model("crcv"), tmp_path / "it.weights.h5")
    without_keras(monkeypatch)
    images = tiny.dataset().train.images.astype(float)
    expected = {
        "channel": (images.mean((0, 1, 2)), images.std((0, 1, 2))),
        "scalar": (images.mean(), images.std()),
        "unit": (0.0, 255.0),
    }
    folder = tiny.write(tmp_path / "data")
    for kind, (mean, std) in expected.items():
        workdir = tmp_path / kind
        config = make_config("crcv", **{"data.normalization": kind, "data.dir": folder})
        convert.read(path, workdir, config)
        trained = Trained.from_workdir(workdir)
        np.testing.assert_allclose(trained.normalization.mean, np.ravel(mean))
        np.testing.assert_allclose(trained.normalization.std, np.ravel(std))
        assert trained.class_names == tuple(f"class {n}" for n in range(CLASSES))
        assert trained.load_dataset().fingerprint == trained.fingerprint
    tiny.write(tmp_path / "data", seed=1)
    with pytest.raises(UserError, match="is not the one"):
        trained.load_dataset()


def test_another_number_of_classes_is_refused(tmp_path):
    path = save(make_model("crcv"), tmp_path / "it.weights.h5")
    config = make_config("crcv", **{"data.dir": tiny.write(tmp_path / "data", classes=6)})
    with pytest.raises(UserError, match="has 4 classes, dataset 'squares' has 6"):
        convert.read(path, tmp_path / "run", config)
    names = ("a", "b", "c")
    with pytest.raises(UserError, match="has 4 classes, --class_names has 3"):
        convert.read(path, tmp_path / "run", config, None, names)
    assert not (tmp_path / "run").exists()


def test_fine_tuning_keeps_the_bits_of_frozen_stages_and_goes_back_to_keras(tmp_path, monkeypatch):
    stages = ((4,), (8,), (8,))
    monkeypatch.setitem(SIZES, "heavy", stages)
    model = randomized(keras_models.crcv(CLASSES, stages))
    path = save(model, tmp_path / "it.h5")
    config = make_config("crcv", init_from=str(tmp_path / "run"), total_steps=2)
    config.model.size = "heavy"
    convert.read(path, tmp_path / "run", config)
    config.param_groups = (("stage[12]", "frozen"),)
    with parallel.using(jax.devices()[:1]):
        with pytest.raises(UserError, match="holds weights but no run: start from them"):
            train_and_evaluate(config, tmp_path / "run")
        train_and_evaluate(config, tmp_path / "tuned")
    best, record = read_best(tmp_path / "tuned")
    for path, value in keras_models.get_weights(model).items():
        found = (best["params"] | best["batch_stats"])[path]
        assert np.array_equal(found, value) == path.startswith(("stage1/", "stage2/")), path
    convert.write(tmp_path / "tuned.h5", tmp_path / "tuned")
    convert.read(tmp_path / "tuned.h5", tmp_path / "back", config)
    back, again = read_best(tmp_path / "back")
    assert record["class_names"] == again["class_names"]
    jax.tree.map(np.testing.assert_array_equal, best, back)


def test_what_keras_computes_otherwise_is_not_written(tmp_path, monkeypatch):
    path = save(make_model("crcv"), tmp_path / "it.weights.h5")
    output = tmp_path / "out.h5"
    with monkeypatch.context() as patch:
        without_keras(patch)
        convert.read(path, tmp_path / "run", make_config("crcv"))
        with pytest.raises(UserError, match="needs Keras, which cannot be imported"):
            convert.write(output, tmp_path / "run")
    from flaxcifar.keras_weights import networks

    write_model = networks.write_model

    def another(*args):
        model = write_model(*args)
        model.get_layer("stage1-conv1").bias.assign_add(np.ones(4))
        return model

    monkeypatch.setattr(networks, "write_model", another)
    with pytest.raises(RunError, match="Keras computes other logits than flaxcifar"):
        convert.write(output, tmp_path / "run")
    assert {*tmp_path.iterdir()} == {tmp_path / "run", path}


CONFIG = """
from flaxcifar.config import default_config
def get_config():
    config = default_config()
    config.model = dict(name="crcv", size="slim")
    config.data.image_size = 8
    config.ops.convolution = "xla"
    return config
"""


def test_the_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.py").write_text(CONFIG)
    (tmp_path / "names.txt").write_text("cat\ndog\n\nfrog\nship\n")
    save(make_model("crcv"), tmp_path / "it.h5")
    flags = "read it.h5 --workdir run --config config.py --config.seed=7 --class_names names.txt"
    command.main([*flags.split(), "--mean", "120.5", "--std", "60,61,62"])
    _, record = read_best("run")
    assert record["config"]["seed"] == 7 and record["config"].keys() == {*default_config()}
    assert record["class_names"] == ["cat", "dog", "frog", "ship"]
    assert record["normalization"] == {"mean": [120.5], "std": [60.0, 61.0, 62.0]}
    assert record["imported"]["file"] == "it.h5" and len(record["imported"]["sha256"]) == 64
    json.dumps(record)
    command.main("write out.weights.h5 --workdir run".split())
    assert (tmp_path / "out.weights.h5").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("read it.h5", "read needs --config"),
        ("read it.h5 --config config.py --mean 1", "give both"),
        ("read it.h5 --config config.py --mean 1 --std 0", "above 0"),
        ("read it.h5 --config config.py --mean 1,2 --std 1", "one number or three"),
        ("read it.h5 --config config.py --mean nan --std 1", "one number or three"),
        ("read it.h5 --config config.py --class_names none", "cannot read --class_names none"),
        ("read it.h5 --config config.py --config.model.name=speednet", "no counterpart in Keras"),
        ("read it.h5 --config config.py", "there is no file 'it.h5'"),
        ("read it.h5 --config config.py --workdir .", "already exists: choose a new"),
        ("write it.h5 --mean 1", "write takes no --mean"),
        ("write it.h5 --config.seed=1", "write takes no --config.seed=1"),
        ("write it.npz", "must end in one of .weights.h5, .keras, .h5"),
        ("write none/it.h5", "no folder 'none'"),
        ("write it.h5", "not the workdir of a run"),
    ],
)
def test_bad_flags_are_one_line(flags, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.py").write_text(CONFIG)
    with pytest.raises(UserError, match=re.escape(message)):
        command.main(["--workdir", "run", *flags.split()])
    assert [path.name for path in tmp_path.iterdir()] == ["config.py"]
