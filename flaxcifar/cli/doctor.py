"""Looks at what a run needs on this machine, and says how to mend what is amiss.

    flaxcifar doctor --config configs/vgg.py

With a config its dataset is looked for, too. The exit code is 1 where training
would fail.
"""

import dataclasses
import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from flaxcifar import config as configs
from flaxcifar import console, data, ops
from flaxcifar.cli.command import Parser
from flaxcifar.data.pipelines import make_pipeline
from flaxcifar.data.tensorflow import import_tensorflow
from flaxcifar.errors import RunError, UserError
from flaxcifar.training.provenance import commit

_LITTLE_SPACE = 2e9  # bytes: checkpoints of a VGG16 and a decoded CIFAR


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one check has found.

    Attributes:
      level: "good", "warning", or "error": training would fail.
      remedy: what to do; "" where there is nothing to mend.
    """

    level: str
    words: str
    remedy: str = ""


Check = Callable[[Any], Iterator[Finding]]


def versions(config: Any) -> Iterator[Finding]:
    """Looks for packages that do not belong together."""
    found = {}
    for package in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            yield Finding("error", f"{package} is not installed", f"pip install {package}")
    words = ", ".join(f"{package} {version}" for package, version in found.items())
    if found.get("jax") != found.get("jaxlib"):
        remedy = f"pip install 'jaxlib=={found.get('jax')}'"
        yield Finding("warning", f"jax and jaxlib have different versions: {words}", remedy)
    else:
        yield Finding("good", f"Python {platform.python_version()}, {words}")


def devices(config: Any) -> Iterator[Finding]:
    """Looks for accelerators that JAX does not see."""
    found = jax.devices()
    words = f"JAX computes on {len(found)} x {found[0].device_kind} ({found[0].platform})"
    hidden = os.environ.get("JAX_PLATFORMS", "")
    if found[0].platform != "cpu":
        yield Finding("good", words)
    elif Path("/dev/nvidia0").exists():
        remedy = "unset JAX_PLATFORMS" if hidden else "pip install -e '.[cuda]'"
        yield Finding("warning", f"{words}, but there is an NVIDIA GPU", remedy)
    elif Path("/dev/accel0").exists() or Path("/dev/vfio/0").exists():
        remedy = "unset JAX_PLATFORMS" if hidden else "pip install -e '.[tpu]'"
        yield Finding("warning", f"{words}, but there seems to be a TPU", remedy)
    else:
        yield Finding("good", words)


def precision(config: Any) -> Iterator[Finding]:
    """Says which precision pays."""
    if jax.default_backend() != "cpu" or ops.has_bfloat16():
        yield Finding("good", "multiplies bfloat16 numbers: precision=bfloat16 pays")
    else:
        yield Finding("good", "multiplies no bfloat16 numbers: precision=float32 is as fast")


def convolutions(config: Any) -> Iterator[Finding]:
    """Tries the convolution that a run would take."""
    wanted = config.ops.convolution if config else "auto"
    try:
        path = ops.resolve(wanted)
        ops.self_test(path, config.precision if config else "float32")
    except UserError as error:
        yield Finding("error", str(error), "see the line itself")
        return
    reason = ops.missing("onednn")
    if jax.default_backend() == "cpu" and path != "onednn" and reason:
        words = f"convolutions by {path}, right on this machine; the faster path is missing"
        yield Finding("warning", words, reason)
    else:
        yield Finding("good", f"convolutions by {path}, right on this machine")


def tensorflow(config: Any) -> Iterator[Finding]:
    """Looks for TensorFlow, which the host pipeline and TFDS need."""
    needed = config is not None and make_pipeline(config.data.pipeline).needs_tensorflow
    if importlib.util.find_spec("tensorflow") is None:
        yield Finding(
            "error" if needed else "warning",
            "TensorFlow is not installed: no host pipeline, no TFDS",
            "pip install tensorflow-cpu, or --config.data.pipeline=resident",
        )
        return
    try:
        module = import_tensorflow()
    except UserError as error:
        yield Finding("error" if needed else "warning", str(error), "see the line itself")
        return
    yield Finding("good", f"TensorFlow {module.__version__}, confined to the CPU")


def dataset(config: Any) -> Iterator[Finding]:
    """Loads the config's dataset, which decodes it where that has not been done."""
    if config is None:
        return
    try:
        found = data.load(config.data)
    except UserError as error:
        yield Finding("error", f"dataset {config.data.name}: {error}", "see the line itself")
        return
    yield Finding(
        "good",
        f"dataset {found.name}: {len(found.train):,} training and {len(found.test):,} test images, "
        f"{len(found.class_names)} classes",
    )


def disk(config: Any) -> Iterator[Finding]:
    """Looks at the space where runs and decoded datasets go."""
    cache = Path(config.data.cache_dir if config else "").expanduser()
    places = {Path.cwd(), cache if config and config.data.cache_dir else Path.home()}
    for place in sorted(places):
        existing = next(path for path in (place, *place.parents) if path.exists())
        free = shutil.disk_usage(existing).free
        words = f"{place}: {free / 1e9:,.1f} GB free"
        if not os.access(existing, os.W_OK):
            yield Finding("error", f"{place} cannot be written", "choose another --workdir")
        elif free < _LITTLE_SPACE:
            yield Finding("warning", words, "free some space or choose another --workdir")
        else:
            yield Finding("good", words)


def compiled(config: Any) -> Iterator[Finding]:
    """Says whether compiled programs outlive a process."""
    directory = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if directory:
        yield Finding("good", f"compiled programs are kept in {directory}")
    else:
        words = "compiled programs are not kept: every run compiles anew, for seconds"
        yield Finding("good", f"{words} (JAX_COMPILATION_CACHE_DIR=DIR would keep them)")


def git(config: Any) -> Iterator[Finding]:
    """Says which commit results would be of."""
    found = commit()
    if found:
        yield Finding("good", f"flaxcifar's commit: {found}")


CHECKS: tuple[Check, ...] = (
    versions,
    devices,
    precision,
    convolutions,
    tensorflow,
    dataset,
    disk,
    compiled,
    git,
)


def examine(config: Any = None) -> Iterator[Finding]:
    """Yields the findings of all checks; `config` is a checked one or None."""
    for check in CHECKS:
        yield from check(config)


def parser() -> Parser:
    """Returns the flags; what it leaves are values of config keys."""
    result = Parser("doctor", __doc__, "[--config FILE [--config.KEY=VALUE ...]]")
    result.add_argument("--config", metavar="FILE", help="a config whose run is prepared")
    return result


def main(argv: list[str]) -> None:
    """Prints the findings; raises RunError, for exit code 1, where training would fail."""
    flags, overrides = parser().parse_known_args(argv)
    if overrides and not flags.config:
        raise UserError(f"unknown argument {overrides[0]!r}: --config is missing")
    config = configs.load(flags.config, overrides) if flags.config else None
    errors = 0
    for finding in examine(config):
        console.say(f"{finding.level:>7}  {finding.words}")
        if finding.remedy:
            console.say(f"         remedy: {finding.remedy}")
        errors += finding.level == "error"
    if errors:
        raise RunError(f"{errors} of these would make training fail")
    console.say("training should work here")
