"""Exports a trained model for use without flaxcifar: SafeTensors, StableHLO and ONNX.

StableHLO and ONNX models map images, uint8 [N, S, S, 3], to logits, float32 [N, classes],
preprocessing included.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import json
import logging
import os
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxcifar import console
from flaxcifar.errors import RunError, UserError, suggestion
from flaxcifar.inference.trained import Trained, compute_logits

# From images to logits.
Model = Callable[[np.ndarray], np.ndarray]

# Largest difference relative to the largest logit, from the order of sums and bfloat16's 8 bits.
_TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}
_PLATFORMS = ("cpu", "cuda", "tpu")


def write_safetensors(trained: Trained, path: Path) -> Model:
    """Writes parameters and batch statistics by path; returns the model with the arrays read back.

    The metadata holds `class_names`, `normalization` and `image_size` as JSON.
    """
    from safetensors.numpy import load_file, save_file

    params, batch_stats = trained.variables
    facts = {
        "class_names": json.dumps(trained.class_names),
        "normalization": json.dumps(trained.normalization.to_json()),
        "image_size": json.dumps(trained.image_size),
    }
    arrays = {name: np.asarray(value) for name, value in {**params, **batch_stats}.items()}
    save_file(arrays, path, metadata=facts)
    found = load_file(path)
    variables: Any = tuple({name: found[name] for name in part} for part in (params, batch_stats))
    return jax.jit(_logits(dataclasses.replace(trained, variables=variables)))


def write_stablehlo(trained: Trained, path: Path) -> Model:
    """Writes a program for CPUs, NVIDIA GPUs and TPUs; returns the program read back."""
    from jax import export

    (batch,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, trained.image_size, trained.image_size, 3), np.uint8)
    program = jax.jit(_logits(_portable(trained)))
    path.write_bytes(export.export(program, platforms=_PLATFORMS)(images).serialize())
    return jax.jit(export.deserialize(bytearray(path.read_bytes())).call)


def write_onnx(trained: Trained, path: Path) -> Model:
    """Writes an ONNX model, input `images`, output `logits`; returns it run by ONNX Runtime.

    It computes in float32, because ONNX Runtime's CPU kernels have no bfloat16.
    """
    # jax2onnx warns of plugins for libraries that are not installed.
    logging.getLogger("jax2onnx").setLevel(logging.CRITICAL)
    with _quiet():
        import jax2onnx

        size = trained.image_size
        function = _logits(_portable(trained.in_float32()))
        images = types.SimpleNamespace(shape=("batch", size, size, 3), dtype=np.dtype(np.uint8))
        names = {"input_names": ["images"], "output_names": ["logits"]}
        model = jax2onnx.to_onnx(function, [images], **names)
    path.write_bytes(model.SerializeToString())
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["logits"], {"images": images})[0]


# The function that writes each format, and the packages it needs.
FORMATS = {
    "safetensors": (write_safetensors, ("safetensors",)),
    "stablehlo": (write_stablehlo, ()),
    "onnx": (write_onnx, ("jax2onnx", "onnxruntime")),
}


def check_formats(formats: Sequence[str]) -> None:
    """Raises UserError if a format is unknown or needs a package that is not installed."""
    for name in formats:
        if name not in FORMATS:
            raise UserError(
                f"unknown format {name!r}{suggestion(name, FORMATS)} "
                f"(there are: {', '.join(FORMATS)})"
            )
        for package in FORMATS[name][1]:
            if importlib.util.find_spec(package) is None:
                raise UserError(f"format {name} needs {package}: pip install 'flaxcifar[export]'")


def export_files(
    trained: Trained, folder: Path, formats: Sequence[str] = ()
) -> Iterator[tuple[str, Path, float]]:
    """Writes a model in several formats, by default all, to `folder`, which is created.

    Yields:
      The format, the file `model.FORMAT` and the largest relative difference of its logits.

    Raises:
      UserError: as for `check_formats`, or the folder cannot be created.
      RunError: see `export`.
    """
    formats = formats or tuple(FORMATS)
    check_formats(formats)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create {folder} ({error.strerror})") from error
    checks = make_checks(trained)
    for name in formats:
        path = folder / f"model.{name}"
        with console.working(f"exporting to {name}"):
            worst = export(trained, name, path, checks)
        yield name, path, worst


def make_checks(trained: Trained) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns batches of one and of five random images, each with the model's own logits."""
    size, own, checks = trained.image_size, jax.jit(_logits(trained)), []
    for count in (1, 5):
        random = np.random.default_rng(count)
        images = random.integers(0, 256, (count, size, size, 3), np.uint8)
        checks.append((images, np.asarray(own(images))))
    return checks


def export(
    trained: Trained, name: str, path: Path, checks: list[tuple[np.ndarray, np.ndarray]]
) -> float:
    """Writes one of `FORMATS`, and compares its logits with the model's own in `checks`.

    Returns:
      The largest difference, relative to the largest logit.

    Raises:
      RunError: if the difference is more than rounding explains. No file is written.
    """
    write, _ = FORMATS[name]
    most = _TOLERANCE[trained.config.precision]
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        model = write(trained, temporary)
        differences = [
            np.max(np.abs(np.asarray(model(images)) - expected)) / np.max(np.abs(expected))
            for images, expected in checks
        ]
        worst = float(np.max(differences))
        if not worst <= most:  # also if it is NaN
            raise RunError(
                f"{name}: its logits differ from the model's by {worst:.1e} of the largest, more "
                f"than the {most:.0e} that rounding explains; nothing was written"
            )
        temporary.chmod(0o644)  # safetensors makes files that only their owner can read
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return worst


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses output and warnings of a converter."""
    with contextlib.ExitStack() as stack:
        nowhere = stack.enter_context(open(os.devnull, "w"))
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        stack.enter_context(contextlib.redirect_stderr(nowhere))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield


def _logits(trained: Trained) -> Callable[[jax.Array], jax.Array]:
    """Returns the model as a function of images, its arrays constants."""
    return functools.partial(
        compute_logits, trained.network, trained.normalization.arrays(), trained.variables
    )


def _portable(trained: Trained) -> Trained:
    """Returns the model with XLA's own convolutions, which exist on every platform."""
    network = dataclasses.replace(trained.network, convolution="xla")
    return dataclasses.replace(trained, network=network)
