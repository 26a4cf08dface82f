"""Checks that this machine can train, and says how to fix what is wrong.

    flaxcifar doctor --config vgg

With a config, its dataset is loaded, too, but not downloaded. The exit code is
1 if training would fail.
"""

import dataclasses
import importlib.util
import os
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
from flaxcifar.devices import parallel
from flaxcifar.errors import RunError, UserError
from flaxcifar.training import provenance

_LITTLE_SPACE = 2e9  # bytes: checkpoints of a VGG16 and a decoded CIFAR
_SEE_MESSAGE = "see the message"


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of a check.

    Attributes:
      level: "good", "warning", or "error" if training would fail.
      words: the finding.
      remedy: what to do; "" if nothing.
    """

    level: str
    words: str
    remedy: str = ""


# Yields findings, given a checked config or None.
Check = Callable[[Any], Iterator[Finding]]
CHECKS: list[Check] = []


def check(function: Check) -> Check:
    """Registers a check; a decorator."""
    CHECKS.append(function)
    return function


@check
def versions(config: Any) -> Iterator[Finding]:
    """Checks that the installed packages belong together."""
    found = provenance.versions()
    words = ", ".join(f"{package} {version}" for package, version in found.items())
    if found["jax"] != found["jaxlib"]:
        remedy = f"pip install 'jaxlib=={found['jax']}'"
        yield Finding("warning", f"jax and jaxlib have different versions: {words}", remedy)
    else:
        yield Finding("good", words)


@check
def devices(config: Any) -> Iterator[Finding]:
    """Checks that JAX uses the accelerators of this machine."""
    found = parallel.all_devices()
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


@check
def precision(config: Any) -> Iterator[Finding]:
    """Tells whether bfloat16 is faster than float32 here."""
    if jax.default_backend() != "cpu" or ops.has_bfloat16():
        yield Finding("good", "bfloat16 in hardware: precision=bfloat16 is faster")
    else:
        yield Finding("good", "no bfloat16 in hardware: precision=float32 is as fast")


@check
def convolutions(config: Any) -> Iterator[Finding]:
    """Compares the convolution backend that a run would use with NumPy."""
    wanted = config.ops.convolution if config else "auto"
    try:
        backend = ops.resolve(wanted)
        ops.self_test(backend, config.precision if config else "float32")
    except UserError as error:
        yield Finding("error", str(error), _SEE_MESSAGE)
        return
    words = f"convolution backend {backend} computes correctly"
    reason = ops.missing("onednn")
    if jax.default_backend() == "cpu" and backend != "onednn" and reason:
        yield Finding("warning", f"{words}, but the faster onednn is missing", reason)
    else:
        yield Finding("good", words)


@check
def tensorflow(config: Any) -> Iterator[Finding]:
    """Checks for TensorFlow, which the host pipeline and TFDS need."""
    needed = config is not None and make_pipeline(config.data.pipeline).needs_tensorflow
    level = "error" if needed else "warning"
    if importlib.util.find_spec("tensorflow") is None:
        remedy = "pip install tensorflow-cpu, or --config.data.pipeline=resident"
        words = "TensorFlow is not installed: no host pipeline, no TFDS"
        yield Finding(level, words, remedy)
        return
    try:
        module = import_tensorflow()
    except UserError as error:
        yield Finding(level, str(error), _SEE_MESSAGE)
        return
    yield Finding("good", f"TensorFlow {module.__version__}, on the CPU only")


@check
def dataset(config: Any) -> Iterator[Finding]:
    """Loads the dataset of the config, which decodes it on first use; downloads nothing."""
    if config is None:
        return
    try:
        source = data.find(config.data)
        if isinstance(source, data.Download):
            yield _download(source)
            return
        found = data.load(config.data)
    except UserError as error:
        yield Finding("error", f"dataset {config.data.name}: {error}", _SEE_MESSAGE)
        return
    yield Finding(
        "good",
        f"dataset {found.name}: {len(found.train):,} training and {len(found.test):,} test images, "
        f"{len(found.class_names)} classes",
    )


def _download(source: data.Download) -> Finding:
    """Tells what a run would download, and whether it could."""
    hosts = source.hosts()
    listed = (
        f"{host}, which {'answers' if up else 'does not answer'}" for host, up in hosts.items()
    )
    return Finding(
        "good" if all(hosts.values()) else "error",
        f"dataset {source.name} is not in {source.data_dir}: a run would download it from "
        f"{'; '.join(listed) or 'a host that only TFDS knows'}",
        "" if all(hosts.values()) else source.offline(),
    )


@check
def disk(config: Any) -> Iterator[Finding]:
    """Checks the folders for runs and decoded datasets: writable, with free space."""
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


@check
def compilation_cache(config: Any) -> Iterator[Finding]:
    """Tells whether compiled programs are kept for later processes."""
    directory = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if directory:
        yield Finding("good", f"compiled programs are cached in {directory}")
    else:
        words = "compiled programs are not cached: every run compiles for some seconds"
        yield Finding("good", f"{words} (set JAX_COMPILATION_CACHE_DIR=DIR to cache them)")


@check
def git(config: Any) -> Iterator[Finding]:
    """Tells the commit that runs would record."""
    found = provenance.commit()
    if found:
        yield Finding("good", f"flaxcifar's commit: {found}")


def examine(config: Any = None) -> Iterator[Finding]:
    """Yields the findings of all checks, given a checked config or None."""
    for function in CHECKS:
        yield from function(config)


def parser() -> Parser:
    """Returns the flags; unknown arguments are values of config keys."""
    result = Parser("doctor", __doc__, "[--config CONFIG [--config.KEY=VALUE ...]]")
    result.add_config("the config that you want to train")
    return result


def main(argv: list[str]) -> None:
    """Prints the findings.

    Raises:
      RunError: training would fail.
    """
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
        raise RunError(f"training would fail: {errors} of the checks found an error")
    console.say("training should work here")
