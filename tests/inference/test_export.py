"""Exported files compute the model's logits without this package, for any number of images."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import quick
from safetensors import safe_open

from flaxcifar.cli import export as command
from flaxcifar.errors import RunError, UserError
from flaxcifar.inference import export
from flaxcifar.training.networks import make_network

PRECISIONS = ("float32", "bfloat16")
IMAGES = np.random.default_rng(3).integers(0, 256, (7, 8, 8, 3), np.uint8)
WITHOUT = """
import sys
sys.modules["flaxcifar"] = None  # an import of it fails
import numpy as np
from jax import export
images, *folders = sys.argv[1:]
for folder in folders:
    program = export.deserialize(bytearray(open(f"{folder}/model.stablehlo", "rb").read()))
    assert set(program.platforms) == {"cpu", "cuda", "tpu"}
    np.save(f"{folder}/logits.npy", program.call(np.load(images)))
"""


@pytest.fixture(scope="module")
def models(trained):
    """The model in each precision."""
    configs = {precision: quick.config(precision=precision) for precision in PRECISIONS}
    return {
        precision: dataclasses.replace(trained, config=config, network=make_network(config, 4)[0])
        for precision, config in configs.items()
    }


@pytest.fixture(scope="module")
def exported(models, tmp_path_factory):
    """Folders with every format, by precision."""
    folders = {precision: tmp_path_factory.mktemp(precision) for precision in PRECISIONS}
    for precision, folder in folders.items():
        checks = export.make_checks(models[precision])
        for name in export.FORMATS:
            export.export(models[precision], name, folder / f"model.{name}", checks)
    return folders


def probabilities(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_stablehlo_runs_without_the_package(models, exported, tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    arguments = [tmp_path / "images.npy", *exported.values()]
    subprocess.run([sys.executable, "-c", WITHOUT, *map(str, arguments)], check=True)
    for precision, folder in exported.items():
        logits = np.load(folder / "logits.npy")
        assert logits.dtype == np.float32
        expected = models[precision].predict_proba(IMAGES)
        np.testing.assert_allclose(probabilities(logits), expected, atol=5e-3)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_onnx_gives_the_same_classes(precision, models, exported):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(exported[precision] / "model.onnx")
    (entry,) = session.get_inputs()
    assert (entry.name, entry.shape[1:], entry.type) == ("images", [8, 8, 3], "tensor(uint8)")
    expected = models[precision].predict_proba(IMAGES)
    for count in (1, 7):
        (logits,) = session.run(["logits"], {"images": IMAGES[:count]})
        np.testing.assert_allclose(probabilities(logits), expected[:count], atol=5e-3)


def test_safetensors_has_every_array_and_what_belongs_to_it(trained, exported):
    with safe_open(exported["float32"] / "model.safetensors", "numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}
        facts = {key: json.loads(text) for key, text in file.metadata().items()}
    params, batch_stats = trained.variables
    expected = {**params, **batch_stats}
    assert arrays.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(arrays[name], value)
    assert facts["class_names"] == list(trained.class_names)
    assert facts["normalization"] == trained.normalization.to_json()
    assert facts["image_size"] == 8


def test_what_differs_is_not_left_behind(workdir, tmp_path, monkeypatch):
    def wrong(trained, path):
        model = export.write_stablehlo(trained, path)
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
    with pytest.raises(
        UserError, match=r"needs no_such_package: pip install 'flaxcifar\[export\]'"
    ):
        command.main(["--workdir", str(workdir), "--output", str(output)])
    assert not output.exists()


def test_a_folder_that_cannot_be_made_is_one_line(workdir, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot create .*file/out"):
        command.main(["--workdir", str(workdir), "--output", str(tmp_path / "file" / "out")])


def test_the_command_writes_into_the_workdir(workdir, capsys):
    command.main(["--workdir", str(workdir), "--format", "safetensors"])
    assert (workdir / "export" / "model.safetensors").exists()
    assert "logits within" in capsys.readouterr().out
