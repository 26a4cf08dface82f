import os
import subprocess
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from flaxcifar.data import load
from flaxcifar.data.sources.tfds import tfds_source
from flaxcifar.data.tensorflow import import_tensorflow
from flaxcifar.errors import UserError

tf = import_tensorflow()
import tensorflow_datasets as tfds  # noqa: E402


def _features(shape=(8, 8, 3), **more):
    image = tfds.features.Image(shape=shape, encoding_format="png")
    label = tfds.features.ClassLabel(names=["cat", "dog", "eel"])
    return tfds.features.FeaturesDict({"image": image, "label": label, **more})


def _examples(count, shape=(8, 8, 3), **more):
    random = np.random.default_rng(count)
    for i in range(count):
        image = random.integers(0, 256, shape, dtype=np.uint8)
        yield {"image": image, "label": i % 3} | {key: f(i) for key, f in more.items()}


def _prepare(data_dir, features, splits, version="1.0.0", name="tiny"):
    """Writes a prepared directory in TFDS' own format; splits: {name: list of examples}."""
    directory = data_dir / name / version
    directory.mkdir(parents=True)
    infos = []
    for split, examples in splits.items():
        path = directory / f"{name}-{split}.tfrecord-00000-of-00001"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for example in examples:
                writer.write(features.serialize_example(example))
        template = tfds.core.ShardedFileTemplate(
            data_dir=directory, dataset_name=name, split=split, filetype_suffix="tfrecord"
        )
        info = {"shard_lengths": [len(examples)], "num_bytes": path.stat().st_size}
        infos.append(tfds.core.SplitInfo(name=split, filename_template=template, **info))
    tfds.folder_dataset.write_metadata(
        data_dir=directory, features=features, split_infos=infos, check_data=False
    )
    return directory


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("data")
    splits = {"train": list(_examples(20)), "test": list(_examples(7))}
    return data_dir, _prepare(data_dir, _features(), splits)


def _decode(data_dir, image_size=8, name="tiny"):
    source = tfds_source(name, str(data_dir), image_size).prepared()
    return source.decode(lambda shape: np.empty(shape, np.uint8))


def test_a_prepared_dataset_is_read_in_its_order(tiny):
    dataset = _decode(tiny[0])
    for split, count in ((dataset.train, 20), (dataset.test, 7)):
        expected = list(_examples(count))
        np.testing.assert_array_equal(split.images, [e["image"] for e in expected])
        assert split.labels.tolist() == [e["label"] for e in expected]
    assert dataset.class_names == ("cat", "dog", "eel") and dataset.superclass_of is None


def test_a_prepared_dataset_is_found_by_its_data_dir_or_its_own_folder(tiny):
    for directory in (tiny[0], tiny[0] / "tiny", tiny[1]):
        assert tfds_source("tiny", str(directory), 8).root == tiny[1]


def test_the_newest_version_is_taken(tmp_path):
    for version, count in (("1.9.0", 2), ("1.10.0", 4), ("1.10.0.incompleteABC", 5), ("0.1.0", 3)):
        splits = {"train": list(_examples(count)), "test": list(_examples(1))}
        _prepare(tmp_path, _features(), splits, version)
    assert len(_decode(tmp_path).train) == 4
    assert len(_decode(tmp_path, name="tiny:1.9.0").train) == 2


def test_images_of_any_size_are_resized_as_pillow_does(tmp_path):
    ramp = np.linspace(0, 255, 30 * 20 * 3).reshape(30, 20, 3).astype(np.uint8)
    examples = [{"image": ramp[:height], "label": 0} for height in (30, 24, 12)]
    _prepare(tmp_path, _features((None, None, 3)), {"train": examples, "test": examples[:1]})
    images = _decode(tmp_path, 12).train.images
    for image, example in zip(images, examples, strict=True):
        expected = Image.fromarray(example["image"]).resize((12, 12), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(image, np.asarray(expected, int), atol=1)


def test_grey_becomes_rgb(tmp_path):
    examples = list(_examples(4, (8, 8, 1)))
    _prepare(tmp_path, _features((8, 8, 1)), {"train": examples, "test": examples})
    expected = np.repeat([e["image"] for e in examples], 3, axis=-1)
    np.testing.assert_array_equal(_decode(tmp_path).train.images, expected)


def test_coarse_labels_become_superclasses(tmp_path):
    coarse = tfds.features.ClassLabel(names=["land", "water"])
    examples = list(_examples(6, coarse_label=lambda i: int(i % 3 == 2)))
    splits = {"train": examples, "test": examples}
    _prepare(tmp_path, _features(coarse_label=coarse), splits)
    dataset = _decode(tmp_path)
    assert dataset.superclass_of.tolist() == [0, 0, 1]
    assert dataset.superclass_names == ("land", "water")


def test_validation_stands_in_for_a_test_split_without_labels(tmp_path):
    unlabelled = list(_examples(4, label=lambda i: -1))
    splits = {"train": list(_examples(5)), "test": unlabelled, "validation": list(_examples(6))}
    _prepare(tmp_path, _features(), splits)
    assert len(_decode(tmp_path).test) == 6
    del splits["validation"]
    _prepare(tmp_path, _features(), splits, "2.0.0")
    with pytest.raises(
        UserError, match=r"must have a labelled train split.*got the splits train, test\."
    ):
        _decode(tmp_path)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_out_of_range_is_named(tmp_path, label):
    examples = list(_examples(6))
    examples[4]["label"] = label
    count = tfds.features.ClassLabel(num_classes=9)
    coarse = tfds.features.ClassLabel(names=["land", "water"])
    examples = [example | {"coarse_label": 0} for example in examples]
    splits = {"train": examples, "test": examples[:3]}
    directory = _prepare(tmp_path, _features(label=count, coarse_label=coarse), splits)
    features = directory / "features.json"
    features.write_text(features.read_text().replace('"9"', '"3"'))
    with pytest.raises(UserError, match=f"from 0 to 2, got {label} for train example 4 .1 of 6"):
        _decode(tmp_path)


def test_classes_with_one_image_or_none_are_named(tmp_path, capsys):
    examples = [example for example in _examples(4) if example["label"] != 1]
    _prepare(tmp_path, _features(), {"train": examples, "test": examples})
    load(ConfigDict(_config(tmp_path, tmp_path / "cache")))
    assert capsys.readouterr().out.splitlines() == [
        "dataset 'tiny' has no training images of 'dog'",
        "dataset 'tiny' has only one training image of 'eel'",
    ]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"image": tfds.features.Image(), "objects": tfds.features.Text()}, "not an image class"),
        ({"text": tfds.features.Text(), "label": tfds.features.ClassLabel(num_classes=2)}, "text"),
        (
            {
                "image": tfds.features.Image(shape=(8, 8, 1), dtype=np.uint16),
                "label": tfds.features.ClassLabel(num_classes=2),
            },
            "uint16",
        ),
    ],
)
def test_other_datasets_are_refused(tmp_path, features, message):
    _prepare(tmp_path, tfds.features.FeaturesDict(features), {"train": [], "test": []})
    with pytest.raises(UserError, match=message):
        _decode(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "flip", "delete", "json"])
def test_damaged_files_are_refused(tmp_path, damage):
    splits = {"train": list(_examples(20)), "test": list(_examples(7))}
    directory = _prepare(tmp_path, _features(), splits)
    record = directory / "tiny-test.tfrecord-00000-of-00001"
    content = bytearray(record.read_bytes())
    if damage == "cut":
        record.write_bytes(content[:-20])
    elif damage == "flip":
        content[len(content) // 2] ^= 1
        record.write_bytes(content)
    elif damage == "delete":
        record.unlink()
    else:
        (directory / "features.json").write_text("{")
    with pytest.raises(UserError, match=f"{directory} cannot be read.*prepare it again"):
        _decode(tmp_path)


def test_missing_records_are_noticed(tmp_path):
    """A file that was cut between two records is whole to TensorFlow."""
    directory = _prepare(tmp_path, _features(), {"train": list(_examples(9)), "test": []})
    other = _prepare(tmp_path, _features(), {"train": list(_examples(8)), "test": []}, "0.0.1")
    file = "tiny-train.tfrecord-00000-of-00001"
    os.replace(other / file, directory / file)
    with pytest.raises(UserError, match="expected to contain 9 elements but contained only 8"):
        _decode(tmp_path)


def test_names(tiny):
    with pytest.raises(UserError, match="data.name must be NAME"):
        tfds_source("../tiny", str(tiny[0]), 8)
    with pytest.raises(UserError, match="synthetic, got 'cifar1000', .*; did you mean 'cifar100'"):
        tfds_source("cifar1000", str(tiny[0]), 8).prepared()
    with pytest.raises(UserError, match="contains the dataset 'tiny', not 'mnist'"):
        tfds_source("mnist", str(tiny[1]), 8)
    with pytest.raises(UserError, match="'/nowhere' is not a folder"):
        tfds_source("mnist", "/nowhere", 8)


def test_a_failed_download_says_how_to_work_offline(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(tfds, "builder", fail)
    match = r"ConnectionError: no route to host.*network.*cifar-100-python\.tar\.gz.*synthetic"
    with pytest.raises(UserError, match=match):
        tfds_source("cifar100", str(tmp_path), 8).prepared()


def test_a_download_is_prepared_without_the_cloud_and_then_found(tmp_path, monkeypatch):
    class Builder:
        data_path = tmp_path / "tiny/1.0.0"

        def download_and_prepare(self, download_config):
            assert not download_config.try_download_gcs
            splits = {"train": list(_examples(3)), "test": list(_examples(2))}
            _prepare(tmp_path, _features(), splits)

    def builder(name, *, data_dir, try_gcs):
        assert (name, str(data_dir), try_gcs) == ("tiny", str(tmp_path), False)
        return Builder()

    monkeypatch.setattr(tfds, "builder", builder)
    assert len(_decode(tmp_path).train) == 3
    monkeypatch.setattr(tfds, "builder", None)
    assert len(_decode(tmp_path).train) == 3


def _config(data_dir, cache_dir):
    config = {"name": "tiny", "dir": str(data_dir), "image_size": 8, "cache_dir": str(cache_dir)}
    return config | {"pipeline": "host", "memory_gb": 0.0}


def test_what_is_cached_needs_no_tensorflow_and_no_network(tiny, tmp_path):
    config = _config(tiny[0], tmp_path)
    fingerprint = load(ConfigDict(config)).fingerprint
    code = (
        "import sys, socket; socket.socket = None\n"
        "sys.modules['tensorflow'] = sys.modules['tensorflow_datasets'] = None\n"
        "from types import SimpleNamespace\n"
        "from flaxcifar.data import load\n"
        f"print(load(SimpleNamespace(**{config})).fingerprint)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == fingerprint


def test_a_prepared_dataset_needs_no_network_and_prints_nothing(tiny, tmp_path):
    config = _config(tiny[0], tmp_path)
    code = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise SystemExit('the network was asked')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from types import SimpleNamespace\n"
        "from flaxcifar.data import load\n"
        "from flaxcifar.data.tensorflow import import_tfds\n"
        "import_tfds()\n"  # so that loading is too fast to show its progress
        f"count = len(load(SimpleNamespace(**{config})).train)\n"
        "print(count, file=sys.stderr)\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.stdout, done.stderr, done.returncode) == ("", "20\n", 0)
