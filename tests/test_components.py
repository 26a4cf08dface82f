"""Components of the user's own are found again by later commands."""

import json
import re
import subprocess
import sys

import pytest
import quick

from flaxcifar import components
from flaxcifar.cli import evaluate, train
from flaxcifar.errors import UserError
from flaxcifar.models import MODELS
from flaxcifar.search.run import as_file

NET = """
from flax import nnx
from flaxcifar.models import MODELS

class Net(nnx.Module):
    def __init__(self, classes, rngs):
        self.head = nnx.Linear(3, classes, rngs=rngs)
    def __call__(self, x):
        return self.head(x.mean((1, 2)))

@MODELS.register
def {name}(classes, shape, dtype, axis_name, rngs):
    return Net(classes, rngs)
"""


@pytest.fixture
def module(tmp_path):
    """A file that registers a model, which it forgets afterwards."""
    path = tmp_path / "elsewhere" / "nets.py"
    path.parent.mkdir()
    path.write_text(NET.format(name="pooled"))
    components.import_components(str(path))
    yield path
    MODELS._functions.pop("pooled", None)


def forget():
    del MODELS._functions["pooled"]


def config():
    return {"model": {"name": "pooled"}, "augment": ({"name": "cutout"},)}


def test_a_config_knows_where_its_own_components_come_from(module):
    (origin,) = components.origins(config())
    assert origin["kind"] == "model" and origin["name"] == "pooled"
    assert origin["file"] == str(module)
    assert components.origins({"model": {"name": "crcv"}}) == []


def test_they_are_restored_from_the_unchanged_file(module, tmp_path):
    found = json.loads(json.dumps(components.origins(config())))
    forget()
    components.restore(found, tmp_path / "run")
    assert "pooled" in MODELS


def test_a_changed_or_missing_file_and_a_notebook_say_what_to_import(module, tmp_path):
    (origin,) = components.origins(config())
    forget()
    module.write_text("raise AssertionError('must not run')")
    with pytest.raises(UserError, match=r"model 'pooled', .*nets.py, which .*changed.*--import"):
        components.restore([origin], tmp_path / "run")
    module.unlink()
    with pytest.raises(UserError, match="missing or has changed"):
        components.restore([origin], tmp_path / "run")
    with pytest.raises(UserError, match="registered in a notebook"):
        components.restore([{**origin, "module": "__main__", "file": "", "sha256": ""}], tmp_path)


def test_code_in_a_workdir_is_never_run(module, tmp_path):
    (origin,) = components.origins(config())
    forget()
    inside = tmp_path / "run" / "nets.py"
    inside.parent.mkdir()
    inside.write_bytes(module.read_bytes())
    with pytest.raises(UserError, match="import the module"):
        components.restore([{**origin, "file": str(inside)}], tmp_path / "run")


def test_a_file_that_fails_or_trains_is_reported_in_one_line(tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text("1 / 0")
    with pytest.raises(UserError, match=r"cannot import .*wrong.py \(ZeroDivisionError"):
        components.import_components(str(path))
    with pytest.raises(UserError, match="cannot import no_such_module"):
        components.import_components("no_such_module")
    path.write_text("import flaxcifar\nflaxcifar.train(None)")
    with pytest.raises(UserError, match="began to train: put its calls under"):
        components.import_components(str(path))


def test_names_of_the_package_are_taken(tmp_path):
    path = tmp_path / "taken.py"
    path.write_text(NET.format(name="crcv"))
    assert "crcv" in MODELS
    with pytest.raises(UserError, match="flaxcifar has a model 'crcv' already"):
        components.import_components(str(path))


def test_commands_find_the_model_of_a_config_file_again(tmp_path, capsys):
    path, run = tmp_path / "mine.py", str(tmp_path / "run")
    config = quick.config(model={"name": "pooled"}, total_epochs=1)
    path.write_text(NET.format(name="pooled") + as_file(config, "tests"))
    try:
        train.main(["--config", str(path), "--workdir", run])
        trained = capsys.readouterr().out
        forget()
        evaluate.main(["--workdir", run])
        accuracy = re.search(r"test .*?([\d.]+ %)", trained)[1]
        assert accuracy in capsys.readouterr().out
        forget()
        path.write_text(path.read_text() + "# changed\n")
        with pytest.raises(UserError, match="import the module that registers it first"):
            evaluate.main(["--workdir", run])
        evaluate.main(["--workdir", run, "--import", str(path)])
        assert accuracy in capsys.readouterr().out
    finally:
        MODELS._functions.pop("pooled", None)


def test_installed_packages_offer_components(tmp_path):
    (tmp_path / "offered.py").write_text(NET.format(name="offered"))
    info = tmp_path / "offered-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: offered\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[flaxcifar]\na = offered\nb = not_there\n")
    code = "from flaxcifar.models import MODELS; print(MODELS.names())"
    found = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.append({str(tmp_path)!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "'offered'" in found.stdout
    assert "cannot import the plugin b (not_there)" in found.stderr
