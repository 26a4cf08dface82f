import csv
import json
import os

import jax
import pytest
import quick
import tiny
from PIL import Image

from flaxcifar.cli import predict
from flaxcifar.devices import parallel
from flaxcifar.errors import RunError, UserError
from flaxcifar.inference.trained import Trained
from flaxcifar.training.loop import train_and_evaluate


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    with parallel.using(jax.devices()[:1]):
        train_and_evaluate(quick.config(total_steps=4), workdir)
    return workdir


@pytest.fixture
def folder(tmp_path):
    """The test images as files, one of them broken."""
    for n, image in enumerate(tiny.dataset().test.images):
        (tmp_path / "images" / f"{n % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "images" / f"{n % 2}" / f"{n:02}.png")
    (tmp_path / "images" / "0" / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "images" / ".hidden").write_bytes(b"no image")
    return tmp_path / "images"


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_a_folder_with_a_broken_image(workdir, folder, tmp_path, capsys, ending):
    output = tmp_path / f"out.{ending}"
    flags = ["--workdir", str(workdir), str(folder), "--top", "2"]
    with pytest.raises(RunError, match="1 of 51 images could not be read"):
        predict.main([*flags, "--output", str(output)])
    assert "cannot read the image" in capsys.readouterr().out
    probabilities = Trained.from_workdir(workdir).predict_proba(tiny.dataset().test.images)
    if ending == "csv":
        rows = list(csv.DictReader(output.read_text().splitlines()))
        first = rows[0]["class_1"], float(rows[0]["probability_1"])
        assert rows[0].keys() == {"image", "class_1", "probability_1", "class_2", "probability_2"}
    else:
        rows = json.loads(output.read_text())
        first = rows[0]["predictions"][0]["class"], rows[0]["predictions"][0]["probability"]
        assert len(rows[0]["predictions"]) == 2
    assert len(rows) == 50 and rows[0]["image"].endswith("0/00.png")
    assert first[0] == f"class {probabilities[0].argmax()}"
    assert first[1] == pytest.approx(probabilities[0].max(), rel=1e-4)


def test_pipes_and_devices_are_named_and_skipped(workdir, folder, capsys):
    pipe, device = folder / "0" / "pipe.png", folder / "0" / "device.png"
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    for given, count in (([folder], 53), ([pipe, device, folder / "0" / "00.png"], 3)):
        with pytest.raises(RunError, match=f"of {count} images could not be read"):
            predict.main(["--workdir", str(workdir), *map(str, given)])
        out = capsys.readouterr().out
        assert all(f"{path} is not a regular file" in out for path in (pipe, device))


def test_the_images_are_drawn_without_the_broken_one(workdir, folder, tmp_path):
    images = [str(folder / "0" / name) for name in ("00.png", "broken.jpg", "02.png", "04.png")]
    picture = tmp_path / "picture.png"
    with pytest.raises(RunError, match="1 of 4 images could not be read"):
        predict.main(["--workdir", str(workdir), *images, "--draw", str(picture)])
    with Image.open(picture) as drawn:
        assert drawn.size[0] > 500


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["nowhere.png"], "no image or folder 'nowhere.png'"),
        (["."], "no files in ."),
        (["x", "--top", "0"], "--top must be at least 1, got 0"),
        (["x", "--output", "out.txt"], "must end in .csv or .json"),
        (["x", "--output", "none/out.csv"], "--output: there is no folder .*none"),
        (["x", "--draw", "none/out.png"], "--draw: there is no folder .*none"),
        (["x", "--draw", "out.xyz"], "--draw out.xyz must end in .png or .jpg"),
    ],
)
def test_bad_flags_are_one_line(flags, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        predict.main([*flags, "--workdir", "run"])
