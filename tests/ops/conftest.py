"""The convolution's paths, and the choice undone after every test."""

import pytest

from flaxcifar import ops


def pytest_generate_tests(metafunc):
    if "path" in metafunc.fixturenames:
        marks = {"onednn": pytest.mark.skipif(bool(ops.missing("onednn")), reason="no onednn")}
        paths = [pytest.param(path, marks=marks.get(path, ())) for path in ops.PATHS]
        metafunc.parametrize("path", paths, indirect=True)


@pytest.fixture
def path(request):
    before = ops.chosen()
    yield ops.use(request.param)
    ops.use(before)


@pytest.fixture
def onednn():
    """The library's path, where its packages are installed."""
    if ops.missing("onednn"):
        pytest.skip(ops.missing("onednn"))
    before = ops.chosen()
    yield ops.use("onednn")
    ops.use(before)
