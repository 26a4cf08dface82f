"""CPU convolutions in compiled code: Winograd's algorithm if it pays off, otherwise oneDNN.

The forward pass and the two gradients are separate calls into the library that `build.py` compiles,
so unused results, such as the gradient of the network's input, are never computed. The calls
work inside `jit`, `lax.scan`, `vmap`, `pmap` and `shard_map`. Only first-order reverse-mode
differentiation is supported.
"""

import ctypes
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap

from flaxcifar.ops import build, winograd
from flaxcifar.ops.geometry import Geometry

PASSES = ("forward", "input_gradient", "kernel_gradient")


def threads() -> int:
    """Returns the number of threads of a convolution, by the same rule as XLA's thread pool."""
    return int(os.environ.get("NPROC") or len(os.sched_getaffinity(0)))


@functools.cache
def load() -> ctypes.CDLL:
    """Builds the library if necessary, loads it and registers its functions with JAX.

    Raises:
      UserError: a package or the compiler is missing.
    """
    path = build.library()
    # XLA's threads need the cores between two convolutions, so OpenMP's threads may spin only for
    # microseconds. The OpenMP runtime reads this variable once, when it is loaded.
    before = os.environ.get("GOMP_SPINCOUNT")
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    library = ctypes.CDLL(str(path))
    if before is None:
        del os.environ["GOMP_SPINCOUNT"]
    library.flaxcifar_set_threads(threads())
    library.flaxcifar_onednn_bfloat16_gain.restype = ctypes.c_double
    for name in PASSES:
        symbol = getattr(library, f"flaxcifar_convolution_{name}")
        jax.ffi.register_ffi_target(_target(name), jax.ffi.pycapsule(symbol), platform="cpu")
    return library


def _target(name: str) -> str:
    return f"flaxcifar_convolution_{name}"


def convolution(lhs: jax.Array, rhs: jax.Array, g: Geometry, exact: bool = False) -> jax.Array:
    """Convolves NHWC activations [N, H, W, C] with an HWIO kernel of the same dtype.

    Args:
      lhs: float32 or bfloat16 (sums are float32).
      rhs: [KH, KW, C / groups, O].
      g: strides, padding, dilation and groups.
      exact: excludes Winograd's algorithm, whose rounding error is about ten times larger.

    Returns:
      [N, OH, OW, O] of the same dtype.
    """
    half, library = lhs.dtype == jnp.bfloat16, load()
    height, width = g.output_shape(lhs.shape, rhs.shape)[1:3]
    # Winograd's products are float32. oneDNN 3.2 uses bfloat16 instructions well only on maps
    # larger than 4 x 4.
    larger = half and height * width > 16
    least_saving = library.flaxcifar_onednn_bfloat16_gain() if larger else 1.0
    tile = 0 if exact else winograd.tile_size(g, lhs.shape, rhs.shape, least_saving)
    if not tile and half and not library.flaxcifar_onednn_has_bfloat16():
        wide = (array.astype(jnp.float32) for array in (lhs, rhs))
        return _convolution(*wide, g, tile).astype(lhs.dtype)
    return _convolution(lhs, rhs, g, tile)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolution(lhs, rhs, g, tile):
    shape = g.output_shape(lhs.shape, rhs.shape)
    return _call("forward", lhs, rhs, shape, g, tile, folds=(True, False))


def _forward(lhs, rhs, g, tile):
    return _convolution(lhs, rhs, g, tile), (lhs, rhs)


def _backward(g, tile, saved, dy):
    lhs, rhs = saved
    dx = _call("input_gradient", rhs, dy, lhs.shape, g, tile, folds=(False, True))
    if not tile and g.idle_taps(lhs.shape, rhs.shape):
        # oneDNN 3.2 reads past the end of a bfloat16 input here.
        lhs, dy = lhs.astype(jnp.float32), dy.astype(jnp.float32)
    dk = _call("kernel_gradient", lhs, dy, rhs.shape, g, tile, folds=None)
    return dx, dk.astype(rhs.dtype)


_convolution.defvjp(_forward, _backward)


def _call(
    name: str,
    a: jax.Array,
    b: jax.Array,
    shape: tuple[int, ...],
    g: Geometry,
    tile: int,
    folds: tuple[bool, bool] | None,
) -> jax.Array:
    """Calls one pass of the library.

    Under `vmap` one call covers the whole mapped axis if exactly the operands marked in `folds` are
    mapped: the axis is folded into their batch. Otherwise there is one call per element.
    """
    attributes = dict(
        stride=np.asarray(g.strides, np.int64),
        padding=np.asarray(g.padding, np.int64).reshape(4),
        dilation=np.asarray(g.dilation, np.int64),
        groups=np.int64(g.groups),
        tile=np.int64(tile),
    )

    def call(a, b, shape):
        # eval_shape: inside shard_map the type of the result records the axes it varies over.
        result = jax.eval_shape(lambda: jnp.broadcast_to(a.ravel()[0] * b.ravel()[0], shape))
        return jax.ffi.ffi_call(_target(name), result)(a, b, **attributes)

    one = custom_vmap(lambda a, b: call(a, b, shape))

    @one.def_vmap
    def many(size: int, mapped: list[bool], a: jax.Array, b: jax.Array) -> tuple[jax.Array, bool]:
        if tuple(mapped) == folds:
            pair = zip((a, b), folds, strict=True)
            first, second = (x.reshape(-1, *x.shape[2:]) if fold else x for x, fold in pair)
            return call(first, second, (size * shape[0], *shape[1:])).reshape(size, *shape), True

        a, b = jnp.asarray(a), jnp.asarray(b)

        def at(n):
            return one(a[n] if mapped[0] else a, b[n] if mapped[1] else b)

        return jax.lax.map(at, jnp.arange(size)), True

    return one(a, b)
