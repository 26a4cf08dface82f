"""The package in a subprocess that lacks what Windows lacks."""

import subprocess
import sys
import textwrap

import pytest

SCRIPT = """
import fcntl, importlib, os, pkgutil, shutil, sys, types
from pathlib import Path

# Other packages may use what their system has.
import h5py, jax, matplotlib.figure, optax, orbax.checkpoint, tensorboardX, tensorflow
import tensorflow_datasets, keras, PIL.Image, rich.progress, scipy.stats, shtab
from flax import nnx

def lock(descriptor, mode, count):
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise PermissionError(13, "Permission denied")

for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
sys.modules["msvcrt"] = types.SimpleNamespace(locking=lock, LK_NBLCK=2)
for name in ("fork", "geteuid", "getuid", "mkfifo", "sched_getaffinity", "sysconf", "uname"):
    delattr(os, name)

import flaxcifar
for module in pkgutil.walk_packages(flaxcifar.__path__, "flaxcifar."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)

from flaxcifar import atomic
from flaxcifar.devices.memory import available_memory, peak_memory
from flaxcifar.errors import UserError
from flaxcifar.workdir.run_folder import locked, prepare

assert available_memory() == float("inf") and peak_memory() is None
atomic._FOLDERS_OPEN = False
shutil._use_fd_functions = False
opened = os.open
def refuse_folders(path, *more, **options):
    if Path(path).is_dir():
        raise PermissionError(13, "Permission denied")
    return opened(path, *more, **options)
os.open = refuse_folders

workdir = Path("run")
prepare(workdir)
with locked(workdir):
    try:
        with locked(workdir):
            raise SystemExit("locked twice")
    except UserError as error:
        assert "another run is using run" in str(error)
    for content in ("one", "two"):
        with atomic.new_folder(workdir) as folder:
            atomic.write_text(folder / "file", content)
            atomic.publish(folder, workdir / "published")
with locked(workdir):
    pass
assert (workdir / "published/file").read_text() == "two"
print(sorted(path.name for path in workdir.iterdir()))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="it imitates Windows on POSIX")
def test_the_package_imports_locks_and_publishes_without_posix(tmp_path):
    code = textwrap.dedent(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "['.lock', 'published']\n"
