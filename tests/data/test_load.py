"""`flaxcifar.data.load`, from a config to a dataset."""

import os
import subprocess
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict

from flaxcifar.data import load
from flaxcifar.data.sources import SOURCES

# Runs the rest of the program where importing TensorFlow or TFDS fails.
_WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = sys.modules["tensorflow_datasets"] = None
"""


def _config(**values):
    return ConfigDict(
        {"name": "synthetic", "dir": "", "image_size": 8, "pipeline": "host", "memory_gb": 0.0}
        | values
    )


def test_every_source_is_found_by_its_file():
    assert {"cifar10", "cifar100", "folder", "synthetic"} <= set(SOURCES.names())


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    cache_dir = str(tmp_path_factory.mktemp("cache"))
    return load(_config(cache_dir=cache_dir)), cache_dir


def test_image_size_has_entries_of_its_own(loaded):
    dataset, cache_dir = loaded
    other = load(_config(cache_dir=cache_dir, image_size=4))
    assert dataset.train.images.shape == (20000, 8, 8, 3)
    assert other.train.images.shape == (20000, 4, 4, 3)
    assert other.fingerprint != dataset.fingerprint


@pytest.mark.parametrize("again", [False, True])
def test_synthetic_needs_no_tensorflow_and_no_network(loaded, tmp_path, again):
    code = _WITHOUT_TENSORFLOW + (
        "import socket; socket.socket = None\n"
        "from types import SimpleNamespace\n"
        "from flaxcifar.data import load\n"
        "config = dict(name='synthetic', dir='', image_size=8, cache_dir=sys.argv[1])\n"
        "config |= dict(pipeline='host', memory_gb=0.0)\n"
        "print(load(SimpleNamespace(**config)).fingerprint)\n"
        "assert 'jax' not in sys.modules\n"
    )
    cache_dir = loaded[1] if again else str(tmp_path)
    command = [sys.executable, "-c", code, cache_dir]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout.strip() == loaded[0].fingerprint


def test_splits_are_what_the_manifest_says(loaded):
    dataset = loaded[0]
    assert len(dataset.class_names) == 100 and len(dataset.superclass_names) == 20
    assert dataset.train.labels.dtype == dataset.superclass_of.dtype == np.int32
