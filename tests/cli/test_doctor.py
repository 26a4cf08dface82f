import importlib.metadata
import importlib.util
import io
import os
import urllib.request
from urllib.error import HTTPError, URLError

import jax
import pytest
import tiny

from flaxcifar import ops
from flaxcifar.cli import doctor
from flaxcifar.errors import RunError, UserError
from flaxcifar.search.run import as_file

NO_DATA = {"data.name": "folder", "data.dir": "nowhere"}


def levels(config=None):
    return [finding.level for finding in doctor.examine(config)]


def test_this_machine_can_train(capsys):
    assert "error" not in levels(tiny.config())
    doctor.main([])
    out = capsys.readouterr().out
    assert "training should work here" in out and f"jax {jax.__version__}" in out


@pytest.mark.parametrize(
    ("breaking", "words"),
    [
        (lambda patch: patch.setattr(ops, "self_test", fail("a sum is wrong")), "a sum is wrong"),
        (lambda patch: patch.setattr(importlib.util, "find_spec", lambda name: None), "TensorFlow"),
        (lambda patch: patch.setattr(os, "access", lambda *_: False), "cannot be written"),
    ],
)
def test_what_would_make_training_fail_is_an_error_with_a_remedy(monkeypatch, breaking, words):
    breaking(monkeypatch)
    bad = [finding for finding in doctor.examine(tiny.config()) if finding.level == "error"]
    assert bad and words in bad[0].words and bad[0].remedy


def fail(words):
    def raising(*_):
        raise UserError(words)

    return raising


@pytest.mark.parametrize(
    ("error", "level", "words"),
    [
        (None, "good", "which answers"),
        (HTTPError("", 403, "Forbidden", None, None), "good", "which answers"),
        (URLError("Name or service not known"), "error", "which does not answer"),
    ],
)
def test_a_missing_dataset_is_not_downloaded(monkeypatch, tmp_path, error, level, words):
    def open_nothing(request, timeout):
        assert request.get_method() == "HEAD"
        if error:
            raise error
        return io.BytesIO()

    monkeypatch.setattr(urllib.request, "urlopen", open_nothing)
    config = tiny.config(**{"data.name": "cifar100", "data.dir": str(tmp_path)})
    (finding,) = doctor.dataset(config)
    assert finding.level == level and words in finding.words
    assert f"is not in {tmp_path}: a run would download it from www.cs.toro" in finding.words
    assert ("--config.data.dir" in finding.remedy) == (level == "error")
    assert not any(tmp_path.iterdir())


def test_accelerators_that_jax_does_not_see(monkeypatch):
    monkeypatch.setattr(doctor.Path, "exists", lambda path: str(path) == "/dev/nvidia0")
    monkeypatch.delenv("JAX_PLATFORMS")
    (finding,) = doctor.devices(None)
    assert finding.level == "warning" and "cuda" in finding.remedy
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    (finding,) = doctor.devices(None)
    assert finding.remedy == "unset JAX_PLATFORMS"


def test_versions_that_differ(monkeypatch):
    real = importlib.metadata.version
    changed = {"jaxlib": "0.1"}
    monkeypatch.setattr(importlib.metadata, "version", lambda name: changed.get(name) or real(name))
    (finding,) = doctor.versions(None)
    assert finding.level == "warning" and "jaxlib==" in finding.remedy


def test_the_command_ends_with_the_count_of_errors(tmp_path, capsys):
    path = tmp_path / "config.py"
    path.write_text(as_file(tiny.config(**NO_DATA), "broken"))
    with pytest.raises(RunError, match="1 of the checks"):
        doctor.main(["--config", str(path)])
    assert "dataset folder: " in capsys.readouterr().out
    with pytest.raises(UserError, match="--config is missing"):
        doctor.main(["--config.seed=1"])
