"""Building the library, and the messages if that fails."""

import pytest

from flaxcifar.errors import UserError
from flaxcifar.ops import build


@pytest.fixture
def packages(monkeypatch, tmp_path):
    """Pretends that both packages are installed, with an empty cache."""
    monkeypatch.setattr(build, "_location", lambda package: tmp_path / "lib" / package)
    monkeypatch.setattr(build.importlib.metadata, "version", lambda package: "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    build._path.cache_clear()
    yield tmp_path
    build._path.cache_clear()


def test_no_compiler(packages, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler: apt-get install g\+\+"):
        build.library()


def test_other_platforms(monkeypatch):
    monkeypatch.setattr(build.sys, "platform", "darwin")
    assert "Linux on x86-64 only" in build.missing()


def test_a_failing_compiler_is_one_line(packages, monkeypatch):
    fake = packages / "compiler"
    fake.write_text("#!/bin/sh\necho 'a.cc:1: note' >&2\necho 'a.cc:1: error: bad' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))
    with pytest.raises(UserError, match="does not compile: a.cc:1: error: bad") as caught:
        build.library()
    assert "\n" not in str(caught.value)
    assert not list((packages / "cache" / "flaxcifar").iterdir())  # nothing half-made is left


def test_built_once_a_source_and_machine(packages, monkeypatch):
    fake = packages / "compiler"
    count = packages / "count"
    fake.write_text(
        f'#!/bin/sh\necho x >> {count}\nwhile [ "$1" != -o ]; do shift; done\necho made > $2\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))
    first = build.library()
    assert first.read_text() == "made\n" and build.library() == first
    assert count.read_text() == "x\n"
    monkeypatch.setattr(build, "instruction_sets", lambda: "another")
    build._path.cache_clear()
    assert build.library() != first
    assert count.read_text() == "x\nx\n"
