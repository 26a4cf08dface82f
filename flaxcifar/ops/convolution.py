"""The convolution of all models: XLA's own on GPUs and TPUs, a faster backend on CPUs.

`convolution` has the signature of `jax.lax.conv_general_dilated`, so it can be passed to
`nnx.Conv(..., conv_general_dilated=ops.convolution)`. The backends are:

  onednn  compiled code (see `onednn.py`): Winograd's algorithm and oneDNN
  jax     plain JAX that maps to XLA's fast kernels (see `canonical.py`)
  xla     `jax.lax.conv_general_dilated` itself

`with using(backend)` selects the backend of the convolutions traced inside. The default is `xla`,
the only backend with forward-mode differentiation.
"""

import contextlib
import contextvars
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax import lax

from flaxcifar.errors import UserError, suggestion
from flaxcifar.ops import build, canonical, onednn
from flaxcifar.ops.geometry import geometry, vary_like

BACKENDS = ("onednn", "jax", "xla")

_backend: contextvars.ContextVar[str] = contextvars.ContextVar("backend", default="xla")


def missing(backend: str) -> str | None:
    """Returns why one of BACKENDS cannot be used here and how to fix it, or None."""
    if backend == "xla":
        return None
    if jax.default_backend() != "cpu":
        return f"it supports CPUs only, and JAX runs on {jax.default_backend()}"
    return build.missing() if backend == "onednn" else None


def available() -> tuple[str, ...]:
    """Returns the backends that can be used here, fastest first."""
    return tuple(backend for backend in BACKENDS if missing(backend) is None)


def resolve(name: str = "auto") -> str:
    """Returns the name of a backend that is ready for use.

    Args:
      name: one of BACKENDS, or "auto" for the fastest available. The first use of "onednn" compiles
        its library (15 seconds, once).

    Raises:
      UserError: the backend is unknown or not available here. The message says how to get it.
    """
    if name not in (*BACKENDS, "auto"):
        raise UserError(
            f"unknown convolution backend {name!r}{suggestion(name, (*BACKENDS, 'auto'))} "
            f"(there are: auto, {', '.join(BACKENDS)})"
        )
    if name == "auto":
        name = available()[0]
        if name == "onednn":
            try:
                onednn.load()
            except UserError as error:
                print(f"{error}; using the backend jax instead", file=sys.stderr)
                name = "jax"
    reason = missing(name)
    if reason:
        raise UserError(f"convolution backend {name} is not available: {reason}")
    if name == "onednn":
        onednn.load()
    return name


@contextlib.contextmanager
def using(backend: str) -> Iterator[None]:
    """Context manager: traces convolutions with one of BACKENDS, then restores the previous one."""
    token = _backend.set(backend)
    try:
        yield
    finally:
        _backend.reset(token)


def convolution(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
) -> jax.Array:
    """Computes `jax.lax.conv_general_dilated` with the backend in use.

    The CPU backends handle NHWC activations [N, H, W, C] with an HWIO kernel
    [KH, KW, C / groups, O], both float32 or both bfloat16 (accumulated in float32). XLA handles
    everything else. The CPU backends have no forward-mode differentiation. `precision="highest"`
    excludes Winograd's algorithm (relative error about 1e-5 instead of 1e-6 in float32).
    """
    backend = _backend.get()
    form = dict(
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
    )
    supported = lhs.dtype == rhs.dtype and str(lhs.dtype) in ("float32", "bfloat16")
    supported = supported and preferred_element_type in (None, lhs.dtype) and not out_sharding
    g = None
    if backend != "xla" and supported:
        g = geometry(lhs, rhs, window_strides, padding, **form)
    if g is None or (backend == "jax" and (g.groups, g.dilation) != (1, (1, 1))):
        form |= dict(precision=precision, preferred_element_type=preferred_element_type)
        return lax.conv_general_dilated(
            lhs, rhs, window_strides, padding, **form, out_sharding=out_sharding
        )
    exact = any(word in str(precision).lower() for word in ("highest", "float32"))
    run = onednn.convolution if backend == "onednn" else canonical.convolution
    return run(vary_like(lhs, rhs), vary_like(rhs, lhs), g, exact)
