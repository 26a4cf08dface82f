"""What is exported gives the model's logits, without this package, for any number of images."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tiny
from safetensors import safe_open

from flaxcifar import data
from flaxcifar.cli import export as command
from flaxcifar.errors import RunError, UserError
from flaxcifar.inference import export
from flaxcifar.inference.predict import Predictor
from flaxcifar.training.loop import train_and_evaluate
from flaxcifar.workdir.checkpoints import read_best


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def workdir(request, tmp_path_factory):
    workdir = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load", lambda config: tiny.dataset())
        changes = {"precision": request.param, "total_steps": 6}
        train_and_evaluate(tiny.config(**changes), workdir)
    return workdir


@pytest.fixture(scope="module")
def exported(workdir):
    command.main(["--workdir", str(workdir)])
    return workdir / "export"


IMAGES = np.random.default_rng(3).integers(0, 256, (7, 8, 8, 3), np.uint8)

WITHOUT = """
import sys
sys.modules["flaxcifar"] = None  # an import of it fails
import numpy as np
from jax import export
program = export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
assert set(program.platforms) == {"cpu", "cuda", "tpu"}
np.save(sys.argv[3], program.call(np.load(sys.argv[2])))
"""


def probabilities(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_stablehlo_runs_without_the_package(workdir, exported, tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    files = [exported / "model.stablehlo", tmp_path / "images.npy", tmp_path / "logits.npy"]
    subprocess.run([sys.executable, "-c", WITHOUT, *map(str, files)], check=True)
    logits = np.load(tmp_path / "logits.npy")
    expected = Predictor.from_workdir(str(workdir))(IMAGES)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(probabilities(logits), expected, atol=5e-3)


def test_onnx_gives_the_same_classes(workdir, exported):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    (entry,) = session.get_inputs()
    assert (entry.name, entry.shape[1:], entry.type) == ("images", [8, 8, 3], "tensor(uint8)")
    expected = Predictor.from_workdir(str(workdir))(IMAGES)
    for count in (1, 7):
        (logits,) = session.run(["logits"], {"images": IMAGES[:count]})
        np.testing.assert_allclose(probabilities(logits), expected[:count], atol=5e-3)


def test_safetensors_has_every_array_and_what_belongs_to_it(workdir, exported):
    best, record = read_best(workdir)
    with safe_open(exported / "model.safetensors", "numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}
        facts = {key: json.loads(text) for key, text in file.metadata().items()}
    expected = {**best["params"], **best["batch_stats"]}
    assert arrays.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(arrays[name], value)
    assert facts["class_names"] == record["class_names"]
    assert facts["normalization"] == record["normalization"]
    assert facts["image_size"] == 8


def test_what_differs_is_not_left_behind(workdir, tmp_path, monkeypatch):
    def wrong(predictor, path):
        model = export.write_stablehlo(predictor, path)
        return lambda images: np.asarray(model(images)) + 1

    monkeypatch.setitem(export.FORMATS, "stablehlo", (wrong, ()))
    with pytest.raises(RunError, match="stablehlo: its logits differ .* nothing was written"):
        command.main(
            ["--workdir", str(workdir), "--format", "stablehlo", "--output", str(tmp_path)]
        )
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_before_anything_is_written(workdir, tmp_path, monkeypatch):
    monkeypatch.setitem(export.FORMATS, "onnx", (export.write_onnx, ("no_such_package",)))
    output = tmp_path / "out"
    with pytest.raises(UserError, match=r"needs no_such_package: pip install -e '\.\[export\]'"):
        command.main(["--workdir", str(workdir), "--output", str(output)])
    assert not output.exists()


def test_a_folder_that_cannot_be_made_is_one_line(workdir, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--output: .*file/out cannot be made"):
        command.main(["--workdir", str(workdir), "--output", str(tmp_path / "file" / "out")])


def test_no_run_is_one_line(tmp_path):
    with pytest.raises(UserError, match="not the workdir of a run"):
        command.main(["--workdir", str(tmp_path)])
