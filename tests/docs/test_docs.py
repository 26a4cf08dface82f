"""The examples of the guides run as they stand."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flaxcifar import config
from flaxcifar.config import to_json
from flaxcifar.data.augment import make_augment
from flaxcifar.optim.optimizers import make_optimizer
from flaxcifar.optim.schedules import make_schedule

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"```python\n# (flaxcifar/[\w/]+\.py)(, at its end)?\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the package with all examples of docs/extending.md in their places."""
    place = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "flaxcifar", place / "flaxcifar")
    blocks = BLOCK.findall((ROOT / "docs" / "extending.md").read_text())
    assert len(blocks) == 4
    for name, end, code in blocks:
        path = place / name
        assert path.exists() == bool(end), name
        path.write_text((path.read_text() + "\n\n" if end else "") + code)
    random = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 96), ("test", 24)):
        arrays[f"{split}_images"] = random.integers(0, 256, (count, 20, 20, 3), np.uint8)
        arrays[f"{split}_labels"] = np.arange(count) % 3
    np.savez(place / "images.npz", names=np.array(["red", "green", "blue"]), **arrays)
    return place


def run(copy, *arguments, code=0):
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy), "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_examples_of_extending_train_together(copy):
    (copy / "config.py").write_text(
        "from flaxcifar.config import default_config\n\n\n"
        "def get_config():\n"
        "    config = default_config()\n"
        "    config.model = dict(name='patches', width=16)\n"
        f"    config.data.name, config.data.dir = 'npz', {str(copy)!r}\n"
        f"    config.data.cache_dir = {str(copy / 'cache')!r}\n"
        "    config.data.image_size = 16\n"
        "    config.data.pipeline = 'resident'\n"
        "    config.augment = (dict(name='brightness', range=20.0),)\n"
        "    config.optimizer = dict(name='sign_momentum', learning_rate=0.01)\n"
        "    config.batch_size, config.eval_batch_size, config.total_epochs = 16, 24, 2\n"
        "    return config\n"
    )
    command = ("flaxcifar.main", "--config", "config.py", "--workdir", "run")
    run(copy, *command)
    summary = json.loads((copy / "run" / "summary.json").read_text())
    assert summary["test"]["examples"] == 24
    assert summary["config"]["model"] == {"name": "patches", "width": 16}
    assert (copy / "run" / "report.html").exists()
    wrong = run(copy, *command[:3], "--config.model.depht=3", code=2)
    assert "takes no 'depht'; did you mean 'depth'?" in wrong


def test_guides_name_what_exists():
    text = "\n".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    text += (ROOT / "README.md").read_text()
    for name in set(re.findall(r"python -m (flaxcifar\.\w+)", text)):
        module = ROOT / name.replace(".", "/")
        assert module.with_suffix(".py").exists() or (module / "__main__.py").exists(), name
    for name in set(re.findall(r"\]\(((?:docs/)?[\w./-]+\.(?:md|py|ipynb))\)", text)):
        assert (ROOT / name).exists() or (ROOT / "docs" / name).exists(), name
    for name in set(re.findall(r"configs/(\w+)\.py", text)) - {"mine"}:
        assert (ROOT / "configs" / f"{name}.py").exists(), name


def test_the_config_of_coming_from_keras_is_valid(tmp_path):
    text = (ROOT / "docs" / "coming-from-keras.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    table = re.findall(r"`(schedule|optimizer) = (dict\([^`]*?\))`", text)
    assert len(table) >= 4
    for key, value in [("batch_size", "128"), *table]:
        if "..." in value:
            continue
        changed = code.replace("    return", f"    config.{key} = {value}\n    return")
        (tmp_path / "mine.py").write_text(changed)
        settings = config.load(tmp_path / "mine.py", [])
        make_augment(settings.augment, (32, 32, 3))
        schedule = make_schedule(to_json(settings.schedule), 10, 2500)
        make_optimizer(to_json(settings.optimizer), lambda rate, schedule=schedule: schedule)


def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    notebook = json.loads((ROOT / "docs" / "quickstart.ipynb").read_text())
    assert not any(cell.get("outputs") for cell in notebook["cells"])
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    (tmp_path / "notebook.py").write_text("\n\n".join(cells))
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    done = subprocess.run(
        [sys.executable, "notebook.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": "", "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    share = float(re.search(r"test accuracy ([\d.]+)%", done.stdout)[1])
    assert share > 50  # of 100 classes, after an epoch
    assert (tmp_path / "runs" / "notebook" / "report.html").exists()
