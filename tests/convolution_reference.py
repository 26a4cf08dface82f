"""A convolution and its gradients in float64, one kernel tap at a time."""

import jax.numpy as jnp
import numpy as np


def pads(size, kernel, stride, padding, dilation):
    """Returns the padding before and after one axis, as TensorFlow defines SAME and VALID."""
    if not isinstance(padding, str):
        return padding
    total = 0
    if padding == "SAME":
        total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def convolve(x, kernel, dy, *, strides=(1, 1), padding="SAME", dilation=(1, 1), groups=1):
    """Returns y [N, OH, OW, O], dx and dkernel for x [N, H, W, C], kernel [KH, KW, C / groups, O].

    `dy` is a function of y's shape that returns the output gradient.
    """
    padding = padding if isinstance(padding, str) else tuple(map(tuple, padding))
    around = [
        pads(
            x.shape[1 + a],
            kernel.shape[a],
            strides[a],
            padding if isinstance(padding, str) else padding[a],
            dilation[a],
        )
        for a in range(2)
    ]
    padded = np.pad(x.astype(np.float64), ((0, 0), *around, (0, 0)))
    size = [
        (padded.shape[1 + a] - (kernel.shape[a] - 1) * dilation[a] - 1) // strides[a] + 1
        for a in range(2)
    ]
    kernel = kernel.astype(np.float64)
    y = np.zeros((len(x), *size, kernel.shape[3]))
    dy = np.asarray(dy(y.shape), np.float64)
    dpadded, dkernel = np.zeros_like(padded), np.zeros_like(kernel)
    ins, outs = x.shape[3] // groups, kernel.shape[3] // groups
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            rows = slice(
                i * dilation[0], i * dilation[0] + (size[0] - 1) * strides[0] + 1, strides[0]
            )
            cols = slice(
                j * dilation[1], j * dilation[1] + (size[1] - 1) * strides[1] + 1, strides[1]
            )
            for g in range(groups):
                a, b = slice(g * ins, (g + 1) * ins), slice(g * outs, (g + 1) * outs)
                tap = kernel[i, j, :, b]
                y[..., b] += padded[:, rows, cols, a] @ tap
                dpadded[:, rows, cols, a] += dy[..., b] @ tap.T
                dkernel[i, j, :, b] += np.einsum(
                    "nhwc,nhwo->co", padded[:, rows, cols, a], dy[..., b]
                )
    (top, _), (left, _) = around
    return y, dpadded[:, top : top + x.shape[1], left : left + x.shape[2]], dkernel


def random_operands(shape, kernel_shape, dtype="float32", seed=0):
    """Returns x and a kernel in `dtype`, and the `dy` argument of `convolve`."""
    rng = np.random.default_rng(seed)
    x, kernel = (rng.normal(size=size).astype(jnp.dtype(dtype)) for size in (shape, kernel_shape))
    gradients = {}

    def dy(shape):
        if shape not in gradients:
            gradients[shape] = rng.normal(size=shape).astype(jnp.dtype(dtype))
        return gradients[shape]

    return x, kernel, dy


def error(result, right):
    """Returns the largest difference relative to the largest expected value."""
    result, right = np.asarray(result, np.float64), np.asarray(right, np.float64)
    assert result.shape == right.shape, (result.shape, right.shape)
    return np.abs(result - right).max() / max(np.abs(right).max(), 1e-30)
