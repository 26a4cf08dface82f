"""One convolution for all models: XLA's own on GPUs and TPUs, a faster path on CPUs.

`convolution` is called as `jax.lax.conv_general_dilated` is, so
`nnx.Conv(..., conv_general_dilated=ops.convolution)` takes it. The paths:

  onednn  compiled code (see `onednn.py`): Winograd's algorithm and oneDNN
  jax     plain JAX on XLA's fast paths (see `canonical.py`)
  xla     `jax.lax.conv_general_dilated` itself

The path is chosen while a function is traced, by the default backend: XLA's convolution stays as it
is elsewhere, forward-mode differentiation included. Whoever compiles for another platform than the
one at hand says `with using("xla")`.
"""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax import lax

from flaxcifar.errors import UserError, suggestion
from flaxcifar.ops import build, canonical, onednn
from flaxcifar.ops.geometry import geometry, vary_like

PATHS = ("onednn", "jax", "xla")

_chosen: str | None = None


def missing(path: str) -> str | None:
    """Returns why `path`, one of PATHS, cannot be used here and what would help, or None."""
    if path == "xla":
        return None
    if jax.default_backend() != "cpu":
        return f"it is for CPUs, and JAX runs on {jax.default_backend()}"
    return build.missing() if path == "onednn" else None


def available() -> tuple[str, ...]:
    """Returns the paths that can be used here, the best first."""
    return tuple(path for path in PATHS if missing(path) is None)


def use(name: str = "auto") -> str:
    """Chooses the path of every convolution that is traced from now on, and returns its name.

    Args:
      name: one of PATHS, or "auto", the best one that is there. The first use of "onednn" compiles
        its library (15 seconds, once).

    Raises:
      UserError: no such path, or it is missing here; the message says how to get it.
    """
    global _chosen
    if name not in (*PATHS, "auto"):
        raise UserError(
            f"unknown convolution path {name!r}{suggestion(name, (*PATHS, 'auto'))} "
            f"(there are: auto, {', '.join(PATHS)})"
        )
    if name == "auto":
        name = available()[0]
        if name == "onednn":
            try:
                onednn.load()
            except UserError as error:
                print(f"{error}; the path jax takes its place", file=sys.stderr)
                name = "jax"
    reason = missing(name)
    if reason:
        raise UserError(f"the convolution path {name} is missing: {reason}")
    if name == "onednn":
        onednn.load()
    if _chosen not in (None, name):
        jax.clear_caches()  # what has been traced holds the other path
    _chosen = name
    return name


@contextlib.contextmanager
def using(name: str) -> Iterator[None]:
    """Within, convolutions are traced by the path `name`; afterwards by the one before."""
    before = chosen()
    use(name)
    try:
        yield
    finally:
        use(before)


def chosen() -> str:
    """Returns the path in use; the first call without a choice chooses "auto"."""
    return _chosen or use()


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

    The faster paths take NHWC activations [N, H, W, C] with an HWIO kernel [KH, KW, C / groups, O],
    both float32 or both bfloat16 (sums are float32); anything else goes to XLA. They know no
    forward-mode differentiation. `precision="highest"` excludes Winograd's algorithm (relative
    error about 1e-5 instead of 1e-6 in float32).
    """
    path = chosen()
    g = None
    same = lhs.dtype == rhs.dtype and str(lhs.dtype) in ("float32", "bfloat16")
    if path != "xla" and same and preferred_element_type in (None, lhs.dtype) and not out_sharding:
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
    if g is None or (path == "jax" and (g.groups, g.dilation) != (1, (1, 1))):
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
    run = onednn.convolution if path == "onednn" else canonical.convolution
    return run(vary_like(lhs, rhs), vary_like(rhs, lhs), g, exact)
