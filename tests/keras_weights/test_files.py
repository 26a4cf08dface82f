import json
import math
import shutil
import sys
import tracemalloc
import zipfile

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxcifar.errors import UserError
from flaxcifar.keras_weights import files

# In the order of a network; more than ten of a kind, so that names do not sort as numbers do.
SHAPES = [*(((3, 3, n, n + 1), (n + 1,)) for n in range(1, 13)), *(((n,),) * 4 for n in range(12))]
SHAPES = [shapes for pair in zip(SHAPES[:12], SHAPES[12:], strict=True) for shapes in pair]
SHAPES.append(((13, 5), (5,)))
PARTS = {2: ("kernel", "bias"), 4: ("gamma", "beta", "moving_mean", "moving_variance"), 0: ()}
KINDS = {4: "conv2d", 1: "batch_normalization", 2: "dense"}
FLATTEN = {"class_name": "Flatten", "config": {"name": "flatten"}}


def size(classes):
    """Returns the bytes of `arrays()`, whatever the classes."""
    return sum(4 * math.prod(shape) for layer in SHAPES for shape in layer)


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    return [[rng.normal(size=shape).astype(np.float32) for shape in layer] for layer in SHAPES]


def write_keras2(path, layers, names, created, root="", attribute_limit=None):
    """As Keras 2 has it: names in attributes, a group for each layer, with a group in it."""
    with h5py.File(path, "w") as file:
        group = file.create_group(root) if root else file
        texts = [name.encode() for name in names]
        if attribute_limit is None:
            group.attrs["layer_names"] = texts
        else:
            parts = np.array_split(np.array(texts), math.ceil(len(texts) / attribute_limit))
            for n, part in enumerate(parts):
                group.attrs[f"layer_names{n}"] = part
        for n in created:
            weights = [f"{names[n]}/{part}:0" for part in PARTS[len(layers[n])]]
            layer = group.create_group(names[n])
            layer.attrs["weight_names"] = [weight.encode() for weight in weights]
            for weight, array in reversed(list(zip(weights, layers[n], strict=True))):
                layer.create_dataset(weight, data=array)


def write_keras3(path, layers, created, container="layers"):
    """As Keras 3 has it: layers called after their kind, counted."""
    counts, names = {}, []
    for layer in layers:
        kind = KINDS[layer[0].ndim]
        counts[kind] = counts.get(kind, -1) + 1
        names.append(f"{kind}_{counts[kind]}" if counts[kind] else kind)
    with h5py.File(path, "w") as file:
        for n in created:
            variables = file.create_group(f"{container}/{names[n]}/vars")
            for m, array in reversed(list(enumerate(layers[n]))):
                variables.create_dataset(str(m), data=array)
        file.create_group(f"{container}/dropout/vars")
        file["seed_generator/vars/0"] = np.zeros(2, np.uint32)


def same(found, layers):
    assert len(found) == len(layers)
    for layer, expected in zip(found, layers, strict=True):
        assert len(layer.arrays) == len(expected)
        for a, b in zip(layer.arrays, expected, strict=True):
            assert a.dtype == np.float32
            np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("keras")


everything = range(len(SHAPES))


@settings(max_examples=15, deadline=None)
@given(created=st.permutations(everything), names=st.permutations(everything))
def test_keras2_layers_come_in_order_whatever_their_names_and_groups(folder, created, names):
    path, expected = folder / "keras2.h5", arrays()
    write_keras2(path, expected, [f"layer_{n}" for n in names], created)
    found = files.read(path, size)
    assert found.ending == ".h5" and found.network is None
    same(found.layers, expected)


@settings(max_examples=15, deadline=None)
@given(created=st.permutations(everything))
def test_keras3_layers_of_a_kind_come_in_order_whatever_their_groups(folder, created):
    path, expected = folder / "keras3.weights.h5", arrays()
    write_keras3(path, expected, created)
    found = files.read(path, size)
    assert found.ending == ".weights.h5" and found.network is None
    for kind, dimensions in (("convolution", 4), ("BatchNorm", 1), ("dense", 2)):
        of_kind = [layer for layer in expected if layer[0].ndim == dimensions]
        same([layer for layer in found.layers if layer.kind == kind], of_kind)


@pytest.mark.parametrize("root", ["", "model_weights"])
def test_a_whole_model_and_split_attributes_of_keras2(tmp_path, root):
    path, expected = tmp_path / "model.h5", [*arrays(), []]
    names = [f"a{n}" for n in range(len(expected))]
    write_keras2(path, expected, names, range(len(expected)), root, attribute_limit=10)
    network = {"class_name": "Sequential", "config": [FLATTEN]}
    with h5py.File(path, "a") as file:
        file.attrs["model_config"] = json.dumps(network).encode()
    found = files.read(path, size)
    same(found.layers, expected[:-1])
    assert [layer["class_name"] for layer in found.network] == ["Flatten"]


def write_archive(path, network=None, weights=None):
    config = network or {"class_name": "Sequential", "config": {"layers": []}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.write(weights, "model.weights.h5")


def test_an_archive_and_its_former_name_of_layers(tmp_path):
    inner, path = tmp_path / "inner.h5", tmp_path / "model.keras"
    write_keras3(inner, arrays(), everything, "_layer_checkpoint_dependencies")
    write_archive(path, weights=inner)
    found = files.read(path, size)
    assert found.ending == ".keras" and found.network == () and len(found.layers) == len(SHAPES)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("Lambda", {"name": "it", "function": {"class_name": "__lambda__", "config": {}}}),
        ("Sequential", {"name": "it", "layers": []}),
    ],
)
def test_a_layer_that_no_network_here_has_is_refused(tmp_path, name, config):
    inner, path = tmp_path / "inner.h5", tmp_path / "model.keras"
    write_keras3(inner, arrays(), everything)
    layers = [{"class_name": name, "config": config}]
    write_archive(path, {"class_name": "Sequential", "config": {"layers": layers}}, inner)
    with pytest.raises(UserError, match=f"layer 'it' is a {name}, which is not supported"):
        files.read(path, size)


def replaced(data=None, **keywords):
    def edit(file, name):
        del file[name]
        file.create_dataset(name, data=data, **keywords)

    return edit


def linked(file, name):
    del file[name]
    file[name] = h5py.ExternalLink(file.filename.replace("it.", "other."), name)


def all_linked(file, name):
    file["model_weights"] = h5py.ExternalLink(file.filename.replace("it.", "other."), "/")


def elsewhere(file, name):
    del file[name]
    secret = file.filename + ".secret"
    with open(secret, "wb") as stored:
        stored.write(bytes(9 * 4))
    file.create_dataset(name, (9,), np.float32, external=[(secret, 0, 36)])


def nested(file, name):
    file["layers/functional/layers/conv2d/vars/0"] = np.zeros(3, np.float32)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (replaced(np.zeros((3, 3), np.int32)), "int32, not floating point"),
        (replaced(np.full((3, 3), np.nan, np.float32)), "not finite"),
        (replaced(shape=(10**6, 10**6), dtype=np.float32, chunks=(64, 64)), "most of it is miss"),
        (replaced("text"), "not floating point"),
        (linked, "conv2d_1/vars/0 is stored outside the file"),
        (all_linked, "model_weights is stored outside the file"),
        (elsewhere, "is stored outside the file"),
        (nested, "a nested network"),
        (
            lambda file, name: file.move(name, "layers/conv2d_1/vars/x"),
            "damaged or not a Keras file",
        ),
        (lambda file, name: file.move("layers", "others"), "without Keras layers"),
        (
            lambda file, name: [file["layers"].pop(key) for key in [*file["layers"]]],
            "no weights of a network",
        ),
    ],
)
def test_what_is_not_a_plain_array_is_refused(tmp_path, edit, message):
    path = tmp_path / "it.weights.h5"
    write_keras3(path, arrays(), everything)
    shutil.copy(path, tmp_path / "other.weights.h5")
    with h5py.File(path, "a") as file:
        edit(file, "layers/conv2d_1/vars/0")
    with pytest.raises(UserError, match=message) as caught:
        files.read(path, size)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_datasets_and_layers_of_keras2_are_damage(tmp_path):
    for n, gone in enumerate(("layer_3", "layer_3/layer_3/beta:0")):
        path = tmp_path / f"{n}.h5"
        write_keras2(path, arrays(), [f"layer_{n}" for n in everything], everything)
        with h5py.File(path, "a") as file:
            del file[gone]
        with pytest.raises(UserError, match="damaged"):
            files.read(path, size)


def test_whatever_part_of_a_file_is_there_it_is_one_line(tmp_path):
    inner, whole, path = (tmp_path / name for name in ("inner.h5", "whole.keras", "part"))
    write_keras3(inner, arrays(), everything)
    write_archive(whole, weights=inner)
    for data in (inner.read_bytes(), whole.read_bytes()):
        for share in (0, 0.001, 0.1, 0.5, 0.9, 0.999):
            path.write_bytes(data[: int(share * len(data))])
            with pytest.raises(UserError, match="is damaged|: not a Keras file"):
                files.read(path, size)
    flipped = bytearray(whole.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(UserError, match="CRC"):
        files.read(path, size)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", b"no")
    with pytest.raises(UserError, match="damaged or not a Keras file"):
        files.read(path, size)
    write_archive(path, {"class_name": "Sequential", "config": [{"class_name": "Add"}]}, inner)
    with pytest.raises(UserError, match="damaged or not a Keras file"):
        files.read(path, size)
    with pytest.raises(UserError, match="there is no file"):
        files.read(tmp_path, size)


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r"flaxcifar\[keras\]"):
        files.read(tmp_path / "it.h5", size)


@pytest.mark.parametrize("kind", ["archive", "archive of many classes", "dataset", "config"])
def test_what_would_take_far_more_memory_than_the_network_is_refused_unread(tmp_path, kind):
    """A bomb: the file is a thousandth of its content."""
    inner, path, large = tmp_path / "inner.h5", tmp_path / "it", 2**23
    write_keras3(inner, arrays(), everything)
    if kind == "dataset":
        path = inner
        with h5py.File(path, "a") as file:
            del file["layers/dense/vars/0"]
            zeros = np.zeros((large // 16, 4), np.float32)
            file.create_dataset("layers/dense/vars/0", data=zeros, compression=9)
    else:
        units = 10**9 if "many" in kind else 5
        dense = {"class_name": "Dense", "config": {"name": "dense", "units": units}}
        config = json.dumps({"config": {"layers": [dense]}}).encode()
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("config.json", config.ljust(2**25 if kind == "config" else 0))
            archive.writestr("model.weights.h5", inner.read_bytes() + bytes(large))
    assert path.stat().st_size < 150_000
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=f"{path}: it.* (bytes|classes|another network)"):
            files.read(path, size)
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()
