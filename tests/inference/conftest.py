import pytest
import tiny

from flaxcifar.inference.trained import Trained
from flaxcifar.training.loop import train_and_evaluate


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
    """A tiny run that has ended."""
    workdir = tmp_path_factory.mktemp("run")
    train_and_evaluate(tiny.config(), workdir)
    return workdir


@pytest.fixture(scope="session")
def trained(workdir):
    return Trained.from_workdir(workdir)
