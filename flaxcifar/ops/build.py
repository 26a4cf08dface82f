"""Compiles the C++ library in `native/` for this machine: `python -m flaxcifar.ops.build`.

The library is built on first use (15 seconds, once) rather than at installation: it is optimised
for the processor that runs it, `pip` would build it against a second JAX in an isolated
environment, and installation must not require a compiler. It is cached in the user's cache
directory. Its file name is a hash of the source, the compiler, the versions and the processor.

oneDNN comes from PyPI's `onednn-cpu-gomp` (oneDNN 3.2, the last release built for GCC's OpenMP).
The newer `onednn` packages depend on the SYCL runtime, half a gigabyte that a CPU does not need.
"""

import functools
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile

import jax

from flaxcifar.errors import UserError
from flaxcifar.ops.processor import instruction_sets

SOURCE = pathlib.Path(__file__).parent / "native"
PACKAGES = ("onednn-cpu-gomp", "onednn-devel-cpu-gomp")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-shared", "-fPIC", "-w")


def missing() -> str | None:
    """Returns why the library cannot be built here and how to fix it, or None."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        return "it supports Linux on x86-64 only"
    if any(_location(package) is None for package in PACKAGES):
        return 'it needs oneDNN: pip install -e ".[cpu]"'
    if not _path().exists() and _compiler() is None:
        return "it needs a C++ compiler: apt-get install g++ (or set CXX)"
    return None


def library() -> pathlib.Path:
    """Returns the path of the library and builds it if necessary.

    Raises:
      UserError: a requirement is missing, or the compiler failed.
    """
    reason = missing()
    if reason:
        raise UserError(f"convolution backend onednn is not available: {reason}")
    path = _path()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Another process may be building too, so the finished file is moved into place.
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            built = pathlib.Path(folder) / path.name
            _compile(built)
            os.replace(built, path)
    return path


def _compile(path: pathlib.Path) -> None:
    binary, headers, compiler = *map(_location, PACKAGES), _compiler()
    assert binary and headers and compiler  # `library` has looked for them
    command = [compiler, *FLAGS, str(SOURCE / "library.cc"), "-o", str(path)]
    command += [f"-I{jax.ffi.include_dir()}", f"-I{headers}"]
    command += [str(binary), f"-Wl,-rpath,{binary.parent}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr]
        raise UserError(f"convolution backend onednn does not compile: {errors[0][:300]}")


def _location(package: str) -> pathlib.Path | None:
    """Returns the include directory or the shared library of one of PACKAGES, or None."""
    try:
        files = importlib.metadata.files(package) or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        if str(file).endswith("include/oneapi/dnnl/dnnl.hpp"):
            return pathlib.Path(file.locate()).resolve().parents[2]
        if str(file).endswith("libdnnl.so.3"):
            return pathlib.Path(file.locate()).resolve()
    return None


def _compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "g++"))


@functools.cache
def _path() -> pathlib.Path:
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    parts = [source.read_bytes() for source in sorted(SOURCE.iterdir())]
    versions = [importlib.metadata.version(name) for name in ("jaxlib", *PACKAGES)]
    parts += [
        repr((FLAGS, versions, _location(PACKAGES[0]), _compiler(), instruction_sets())).encode()
    ]
    name = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    return pathlib.Path(cache) / "flaxcifar" / f"convolution-{name}.so"


if __name__ == "__main__":
    try:
        print(library())
    except UserError as error:
        sys.exit(f"error: {error}")
