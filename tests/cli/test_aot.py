import importlib.util
import json
import os

import pytest

from flaxcifar.cli import aot
from flaxcifar.errors import UserError
from flaxcifar.training import experiment

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="no libtpu: pip install -e '.[aot]'"
)


@pytest.fixture(autouse=True)
def undone(monkeypatch):
    """What compiling for another platform leaves behind in the process."""
    monkeypatch.setattr(os, "environ", dict(os.environ))


@pytest.fixture
def tiny_config(tmp_path):
    path = tmp_path / "tiny_config.py"
    path.write_text("import tiny\n\n\ndef get_config():\n    return tiny.config()\n")
    return str(path)


def test_mistakes_are_found_before_anything_is_compiled(tiny_config, monkeypatch):
    monkeypatch.setattr(aot, "devices", lambda part: pytest.fail("too late"))
    for flags, words in (
        (["--topology", "v5e:5x5"], "v5e has"),
        (["--keep", "/nowhere"], "no folder /nowhere"),
        (["--output", "/nowhere/figures.json"], "no folder /nowhere"),
        (["--classes", "-1", "--examples", "9"], "at least 1"),
        (["--config.batchsize=3"], "batch_size"),
        ([], "--classes and --examples"),
    ):
        with pytest.raises(UserError, match=words):
            aot.main(["--config", tiny_config, *flags])


@needs_libtpu
def test_a_whole_report(tiny_config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(experiment.data, "load", lambda config: pytest.fail("no data is needed"))
    output = tmp_path / "figures.json"
    flags = ["--topology", "v5e:2x2", "--classes", "4", "--examples", "192", "--largest_batch"]
    flags += ["--config.data.validation_percent=25", "--config.steps_per_dispatch=2"]
    aot.main(["--config", tiny_config, *flags, "--output", str(output), "--keep", str(tmp_path)])
    report = json.loads(output.read_text())
    assert (report["topology"], report["chips"]) == ("v5e:2x2", 4)
    train, evaluation = report["steps"]
    assert (train["step"], train["batch"], evaluation["step"]) == ("train", 16, "eval")
    for step in (train, evaluation):
        assert step["host_transfers"] == []
        assert 0 < step["memory_share"] < 0.01
        assert step["estimated_seconds"]["step"] > 0
    # One all-reduce for the gradients of all parameters, and two for each of two BatchNorms.
    sizes = [each["bytes"] for each in train["collectives"] for _ in range(each["count"])]
    parameters = (3 * 9 * 8 + 8 * 9 * 16 + 8 + 16) + 2 * (8 + 16) + 17 * 4
    assert max(sizes) >= 4 * parameters and len(sizes) <= 6
    assert report["estimated_largest_batch"] in (None, 144)  # all training images
    assert (tmp_path / "v5e-2x2-train.hlo.txt").read_text().startswith("HloModule")
    said = capsys.readouterr().out
    assert "never waits for the host" in said and "largest batch" in said
