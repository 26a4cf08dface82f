import hashlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
import tracemalloc

import numpy as np
import pytest

from flaxcifar.data.sources import cifar
from flaxcifar.errors import UserError

_TRAIN, _TEST = 15, 10


def _batch(random, count, key, classes):
    data = random.integers(0, 256, (count, 3072), dtype=np.uint8)
    return {"data": data, key: random.integers(0, classes, count).tolist()}


def _files(name):
    """The same layout with other images: {file: what it unpickles to}."""
    random = np.random.default_rng(0)
    if name == "cifar10":
        names = [f"data_batch_{i}" for i in range(1, 6)]
        files = {file: _batch(random, 3, "labels", 10) for file in names}
        meta = {"label_names": [f"class {i}" for i in range(10)]}
        return files | {"test_batch": _batch(random, _TEST, "labels", 10), "batches.meta": meta}
    files = {}
    for file, count in (("train", _TRAIN), ("test", _TEST)):
        files[file] = _batch(random, count, "fine_labels", 5)
        files[file]["fine_labels"][:5] = range(5)
        files[file]["coarse_labels"] = [(label * 2) % 5 % 2 for label in files[file]["fine_labels"]]
    meta = {"fine_label_names": list("abcde"), "coarse_label_names": ["even", "odd"]}
    return files | {"meta": meta}


def _pack(name, contents, directory, monkeypatch):
    """Writes folder and archive, and puts the files' MD5s into the table. Returns the archive."""
    archive, folder = cifar._PLACES[name]
    (directory / folder).mkdir(parents=True)
    with tarfile.open(directory / archive, "w:gz") as tar:
        for file, content in contents.items():
            (directory / folder / file).write_bytes(content)
            tar.add(directory / folder / file, f"{folder}/{file}")
        info = tarfile.TarInfo("../outside")  # must never be written
        info.size = 4
        tar.addfile(info, io.BytesIO(b"evil"))
    md5s = {file: hashlib.md5(content).hexdigest() for file, content in contents.items()}
    monkeypatch.setitem(cifar.FILE_MD5, name, md5s)
    return directory / archive


@pytest.fixture(params=["cifar10", "cifar100"])
def name(request):
    return request.param


@pytest.fixture
def packed(name, tmp_path, monkeypatch):
    # Protocol 2 is the published files'; their names of NumPy functions are the older ones.
    contents = {
        file: pickle.dumps(content, 2).replace(b"numpy._core", b"numpy.core")
        for file, content in _files(name).items()
    }
    return _pack(name, contents, tmp_path / "data", monkeypatch)


def _open(name, directory, image_size=32):
    return getattr(cifar, name)(str(directory), image_size).decode(np.empty)


def _assert_right(name, dataset):
    files, key = _files(name), {"cifar10": "labels", "cifar100": "fine_labels"}[name]
    parts = {file: part for file, part in files.items() if "data" in part}
    test = parts.pop("test_batch" if name == "cifar10" else "test")
    for split, batches in ((dataset.train, parts.values()), (dataset.test, [test])):
        data = np.concatenate([batch["data"] for batch in batches])
        # A row holds the planes one after the other.
        expected = np.stack(np.split(data, 3, axis=1), axis=-1).reshape(-1, 32, 32, 3)
        np.testing.assert_array_equal(split.images, expected)
        assert split.labels.tolist() == [label for batch in batches for label in batch[key]]
    if name == "cifar10":
        assert dataset.class_names == tuple(f"class {i}" for i in range(10))
        assert dataset.superclass_of is None
    else:
        assert dataset.class_names == tuple("abcde")
        assert dataset.superclass_names == ("even", "odd")
        assert dataset.superclass_of.tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("keep", ["both", "archive", "folder"])
@pytest.mark.parametrize("inside", [False, True])
def test_the_archive_and_its_folder_are_found(name, packed, keep, inside):
    folder = packed.parent / cifar._PLACES[name][1]
    if keep == "folder":
        packed.unlink()
    elif keep == "archive":
        folder.rename(packed.parent / "other")
    directory = (folder if keep == "folder" else packed) if inside else packed.parent
    _assert_right(name, _open(name, directory))
    assert not (packed.parent.parent / "outside").exists()


def test_images_are_resized(name, packed):
    dataset = _open(name, packed, image_size=8)
    assert dataset.train.images.shape == (_TRAIN, 8, 8, 3)


def test_an_archive_that_a_mirror_has_packed_again_is_read(name, packed):
    with tarfile.open(packed) as tar:
        contents = {member.name: tar.extractfile(member).read() for member in tar}
    with tarfile.open(packed, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        for file, content in reversed(contents.items()):
            info = tarfile.TarInfo(f"./{file}")
            info.size, info.mtime = len(content), 1e9
            tar.addfile(info, io.BytesIO(content))
    _assert_right(name, _open(name, packed))


@pytest.mark.parametrize("name", ["cifar10"], indirect=True)
@pytest.mark.parametrize("change", ["missing", "other"])
def test_an_archive_of_other_files_is_refused(name, packed, change):
    with tarfile.open(packed, "w:gz") as tar:
        for file in (packed.parent / cifar._PLACES[name][1]).iterdir():
            if (file.name, change) == ("test_batch", "other"):
                file.write_bytes(b"other")
            if (file.name, change) != ("test_batch", "missing"):
                tar.add(file, f"{file.parent.name}/{file.name}")
    words = {"missing": "test_batch is missing", "other": "test_batch is damaged or inc.*MD5"}
    with pytest.raises(UserError, match=f"{words[change]}.*Download it again"):
        _open(name, packed)


@pytest.mark.parametrize("name", ["cifar10"], indirect=True)
def test_what_an_archive_would_unpack_to_is_not_read_if_it_is_too_large(name, packed, monkeypatch):
    monkeypatch.setattr(cifar, "_MOST_BYTES", 2**17)
    file, size = f"{cifar._PLACES[name][1]}/data_batch_1", 2**24
    with tarfile.open(packed, "w:gz") as tar:
        info = tarfile.TarInfo(file)
        info.size = size
        tar.addfile(info, io.BytesIO(bytes(size)))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="unpacks to more than 131,072 bytes"):
            _open(name, packed)
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_archive_is_refused(name, packed, damage):
    content = bytearray(packed.read_bytes())
    if damage == "cut":
        content = content[:-100]
    else:
        content[len(content) // 2] ^= 1
    packed.write_bytes(content)
    with pytest.raises(UserError, match=f"{packed.name}.* is damaged or incomplete.*Download"):
        _open(name, packed)


def test_a_damaged_file_is_named(name, packed):
    folder = packed.parent / cifar._PLACES[name][1]
    file = list(cifar.FILE_MD5[name])[1]
    with open(folder / file, "ab") as damaged:
        damaged.write(b"x")
    with pytest.raises(UserError, match=f"{file} is damaged or incomplete.*MD5"):
        _open(name, folder)


class _Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.mark.parametrize("name", ["cifar10"], indirect=True)
def test_a_pickle_that_runs_code_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    contents = {file: pickle.dumps(content, 2) for file, content in _files(name).items()}
    contents["data_batch_1"] = pickle.dumps(_Harmful(), 2)
    archive = _pack(name, contents, tmp_path / "data", monkeypatch)
    with pytest.raises(UserError, match=r"not a CIFAR file: it refers to \w+\.mkdir"):
        _open(name, archive)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["cifar100"], indirect=True)
def test_coarse_labels_must_agree(name, tmp_path, monkeypatch):
    files = _files(name)
    files["test"]["coarse_labels"][0] ^= 1
    contents = {file: pickle.dumps(content, 2) for file, content in files.items()}
    archive = _pack(name, contents, tmp_path / "data", monkeypatch)
    with pytest.raises(UserError, match="must have exactly one coarse label"):
        _open(name, archive)


def test_the_published_md5s():
    assert {name: len(files) for name, files in cifar.FILE_MD5.items()} == {
        "cifar10": 7,
        "cifar100": 3,
    }


def test_no_tensorflow_is_needed(name, packed, tmp_path):
    code = (
        "import sys; sys.modules['tensorflow'] = sys.modules['tensorflow_datasets'] = None\n"
        "from types import SimpleNamespace\n"
        "from flaxcifar.data import load\n"
        "from flaxcifar.data.sources import cifar\n"
        f"cifar.FILE_MD5 = {cifar.FILE_MD5}\n"
        "name, where, cache = sys.argv[1:]\n"
        "config = dict(name=name, dir=where, image_size=32, cache_dir=cache)\n"
        "config = SimpleNamespace(**config, pipeline='host', memory_gb=0.0)\n"
        "print(len(load(config).train), len(load(config).test))\n"
    )
    command = [sys.executable, "-c", code, name, str(packed), str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-2:] == [str(_TRAIN), str(_TEST)]
