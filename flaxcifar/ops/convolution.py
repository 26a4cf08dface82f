"""One convolution for all models: XLA's own on GPUs and TPUs, a faster path on CPUs.

`convolution` is called as `jax.lax.conv_general_dilated` is, so
`nnx.Conv(..., conv_general_dilated=ops.convolution)` takes it. The backends:

  onednn  compiled code (see `onednn.py`): Winograd's algorithm and oneDNN
  jax     plain JAX on XLA's fast paths (see `canonical.py`)
  xla     `jax.lax.conv_general_dilated` itself

A network is traced under `with using(backend)`. Without that, convolutions are XLA's, which stay as
they are everywhere, forward-mode differentiation included.
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
    """Returns why one of BACKENDS cannot be used here and how to get it, or None."""
    if backend == "xla":
        return None
    if jax.default_backend() != "cpu":
        return f"it is for CPUs, and JAX runs on {jax.default_backend()}"
    return build.missing() if backend == "onednn" else None


def available() -> tuple[str, ...]:
    """Returns the backends that can be used here, the fastest first."""
    return tuple(backend for backend in BACKENDS if missing(backend) is None)


def resolve(name: str = "auto") -> str:
    """Returns the backend that `name` means here, ready for use.

    Args:
      name: one of BACKENDS, or "auto", the fastest available. The first use of "onednn" compiles
        its library (15 seconds, once).

    Raises:
      UserError: there is no such backend, or it is missing here; the message says how to get it.
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
        raise UserError(f"the convolution backend {name} is missing: {reason}")
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
    """Convolves as `jax.lax.conv_general_dilated` with the same arguments does.

    The faster backends take NHWC activations [N, H, W, C] with an HWIO kernel
    [KH, KW, C / groups, O], both float32 or both bfloat16 (sums are float32); anything else goes to
    XLA. They have no forward-mode differentiation. `precision="highest"` excludes Winograd's
    algorithm (relative error about 1e-5 instead of 1e-6 in float32).
    """
    backend = _backend.get()
    g = None
    same = lhs.dtype == rhs.dtype and str(lhs.dtype) in ("float32", "bfloat16")
    if (
        backend != "xla"
        and same
        and preferred_element_type in (None, lhs.dtype)
        and not out_sharding
    ):
        g = geometry(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation,
            rhs_dilation,
            dimension_numbers,
            feature_group_count,
            batch_group_count,
        )
    if g is None or (backend == "jax" and (g.groups, g.dilation) != (1, (1, 1))):
        return lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            dimension_numbers=dimension_numbers,
            feature_group_count=feature_group_count,
            batch_group_count=batch_group_count,
            precision=precision,
            preferred_element_type=preferred_element_type,
            out_sharding=out_sharding,
        )
    exact = any(word in str(precision).lower() for word in ("highest", "float32"))
    run = onednn.convolution if backend == "onednn" else canonical.convolution
    return run(vary_like(lhs, rhs), vary_like(rhs, lhs), g, exact)
