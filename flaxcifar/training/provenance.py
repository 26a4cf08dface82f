"""The code that a result comes from: commit and package versions."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

from flaxcifar import __version__

# Not prose, and not the results that benchmarks append to.
_CODE = (":(top)flaxcifar", ":(top)configs", ":(top)benchmarks/*.py")


def commit() -> str | None:
    """Returns the short hash of HEAD, with "+dirty" if code differs from it.

    Returns None if this file does not belong to a git repository.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", __file__)  # installed inside another repository?
        changed = git("status", "--porcelain", "--", *_CODE)
        return git("rev-parse", "--short", "HEAD") + ("+dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def versions() -> dict[str, str]:
    """Returns the versions of Python, flaxcifar and the packages that results depend on."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        "flaxcifar": __version__,
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in packages},
    }
