"""Exports a trained model to safetensors, StableHLO and ONNX, checked against the model itself."""

import contextlib
import dataclasses
import functools
import json
import logging
import os
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxcifar.errors import RunError
from flaxcifar.inference.predict import Predictor, compute_logits

# A function of images that gives logits.
Model = Callable[[np.ndarray], np.ndarray]

# What may differ, relative to the largest logit: the order of sums, and bfloat16's 8 bits.
_TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}
_PLATFORMS = ("cpu", "cuda", "tpu")


def write_safetensors(predictor: Predictor, path: Path) -> Model:
    """Writes parameters and statistics by their paths; returns the model with what it reads back.

    The metadata of the file has `class_names`, `normalization` and `image_size` as JSON.
    """
    from safetensors.numpy import load_file, save_file

    params, batch_stats = predictor.variables
    facts = {
        "class_names": json.dumps(predictor.class_names),
        "normalization": json.dumps(predictor.normalization.to_json()),
        "image_size": json.dumps(predictor.image_size),
    }
    arrays = {name: np.asarray(value) for name, value in {**params, **batch_stats}.items()}
    save_file(arrays, path, metadata=facts)
    found = load_file(path)
    variables = tuple({name: found[name] for name in part} for part in (params, batch_stats))
    return jax.jit(_logits(predictor, variables))


def write_stablehlo(predictor: Predictor, path: Path) -> Model:
    """Writes a program for CPUs, NVIDIA GPUs and TPUs; returns the one that is read back."""
    from jax import export

    (batch,) = export.symbolic_shape("batch")
    shape = (batch, predictor.image_size, predictor.image_size, 3)
    program = jax.jit(_portable_logits(predictor))
    traced = jax.ShapeDtypeStruct(shape, np.uint8)
    exported = export.export(program, platforms=_PLATFORMS)(traced)
    path.write_bytes(exported.serialize())
    return jax.jit(export.deserialize(bytearray(path.read_bytes())).call)


def write_onnx(predictor: Predictor, path: Path) -> Model:
    """Writes an ONNX model, input `images`, output `logits`; returns it as ONNX Runtime has it.

    It computes in float32: ONNX Runtime's CPU kernels have no bfloat16.
    """
    # It warns of plugins for libraries that are not there.
    logging.getLogger("jax2onnx").setLevel(logging.CRITICAL)
    with _quiet():
        import jax2onnx

        size = predictor.image_size
        function = _portable_logits(predictor.in_float32())
        images = types.SimpleNamespace(shape=("batch", size, size, 3), dtype=np.dtype(np.uint8))
        names = {"input_names": ["images"], "output_names": ["logits"]}
        model = jax2onnx.to_onnx(function, [images], **names)
    path.write_bytes(model.SerializeToString())
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["logits"], {"images": images})[0]


# Each with the packages it needs.
FORMATS = {
    "safetensors": (write_safetensors, ("safetensors",)),
    "stablehlo": (write_stablehlo, ()),
    "onnx": (write_onnx, ("jax2onnx", "onnxruntime")),
}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within, what a converter prints is dropped."""
    with contextlib.ExitStack() as stack:
        nowhere = stack.enter_context(open(os.devnull, "w"))
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        stack.enter_context(contextlib.redirect_stderr(nowhere))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield


def _logits(predictor: Predictor, variables: Any) -> Callable[[jax.Array], jax.Array]:
    return functools.partial(
        compute_logits, predictor.network, predictor.normalization.arrays(), variables
    )


def _portable_logits(predictor: Predictor) -> Callable[[jax.Array], jax.Array]:
    """Returns the logits computed by XLA's own convolutions, which exist everywhere."""
    network = dataclasses.replace(predictor.network, convolution="xla")
    return functools.partial(
        compute_logits, network, predictor.normalization.arrays(), predictor.variables
    )


def make_checks(predictor: Predictor) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns batches of one and of five random images, each with the model's own logits."""
    size, own, checks = predictor.image_size, jax.jit(_logits(predictor, predictor.variables)), []
    for count in (1, 5):
        random = np.random.default_rng(count)
        images = random.integers(0, 256, (count, size, size, 3), np.uint8)
        checks.append((images, np.asarray(own(images))))
    return checks


def export(
    predictor: Predictor, name: str, path: Path, checks: list[tuple[np.ndarray, np.ndarray]]
) -> float:
    """Writes one format and returns how far its logits are from the model's, relative to those.

    Raises RunError, and leaves nothing behind, where they are further than rounding explains.
    """
    write, _ = FORMATS[name]
    most = _TOLERANCE[predictor.precision]
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        model = write(predictor, temporary)
        distances = [
            np.max(np.abs(np.asarray(model(images)) - expected)) / np.max(np.abs(expected))
            for images, expected in checks
        ]
        worst = float(np.max(distances))
        if not worst <= most:
            raise RunError(
                f"{name}: its logits differ from the model's by {worst:.1e} of the largest, more "
                f"than the {most:.0e} that rounding explains; nothing was written"
            )
        temporary.chmod(0o644)  # safetensors' files are their owner's alone
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return worst
