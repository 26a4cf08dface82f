"""Every test with a `path` runs once per convolution backend."""

import pytest

from flaxcifar import ops


def pytest_generate_tests(metafunc):
    if "path" in metafunc.fixturenames:
        marks = {"onednn": pytest.mark.skipif(bool(ops.missing("onednn")), reason="no onednn")}
        paths = [pytest.param(path, marks=marks.get(path, ())) for path in ops.BACKENDS]
        metafunc.parametrize("path", paths, indirect=True)


@pytest.fixture
def path(request):
    with ops.using(ops.resolve(request.param)):
        yield request.param


@pytest.fixture
def onednn():
    """The library's path, where its packages are installed."""
    if ops.missing("onednn"):
        pytest.skip(ops.missing("onednn"))
    with ops.using(ops.resolve("onednn")):
        yield "onednn"
