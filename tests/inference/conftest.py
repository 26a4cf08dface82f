import jax
import pytest
import quick

from flaxcifar.devices import parallel
from flaxcifar.inference.trained import Trained
from flaxcifar.training.loop import train_and_evaluate


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
    """A tiny run that has ended."""
    workdir = tmp_path_factory.mktemp("run")
    with parallel.using(jax.devices()[:1]):
        train_and_evaluate(quick.config(), workdir)
    return workdir


@pytest.fixture(scope="session")
def trained(workdir):
    return Trained.from_workdir(workdir)
