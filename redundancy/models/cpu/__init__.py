"""Convolutions for CPUs by our own compiled kernels; README.md explains why. Other modules only call `convolve`."""

import functools

import jax
import jax.numpy as jnp

from redundancy.models.cpu import calls
from redundancy.models.cpu.kernels import lanes
from redundancy.models.shards import by_shards

_MOST_WEIGHTS = 2**20  # of a kernel; above, matrix products were measured to be as fast, and need no partial sums


def convolve(x: jax.Array, kernel: jax.Array, strides: tuple[int, int]) -> jax.Array | None:
    """Convolution with padding "SAME", computed in float32; None if there is no kernel for these shapes or this machine.

    Args:
      x: `[B, H, W, C]`.
      kernel: `[h, w, C, D]`.
      strides: of height and width.

    Returns:
      `[B, ceil(H / stride), ceil(W / stride), D]` of x's type.
    """
    height, width, channels, features = kernel.shape
    if (
        x.shape[0]
        and height == width
        and strides[0] == strides[1]
        and lanes(features)
        and height * width * channels * features < _MOST_WEIGHTS
        and calls.available()
    ):
        return _direct(x.astype(jnp.float32), kernel.astype(jnp.float32), strides[0]).astype(x.dtype)
    return None


def _of_xla(x, kernel, stride):
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _direct(x, kernel, stride):
    return by_shards(functools.partial(calls.forward, stride=stride), x, kernel)


def _forward(x, kernel, stride):
    return _direct(x, kernel, stride), (x, kernel)


def _backward(stride, saved, dy):
    x, kernel = saved
    taps, size, channels = kernel.shape[0], x.shape[1:3], x.shape[3]
    of_kernel = by_shards(functools.partial(calls.kernel_gradient, taps=taps, stride=stride), x, dy, sums=True)
    if not lanes(channels):
        (of_x,) = jax.linear_transpose(lambda x: _of_xla(x, kernel, stride), x)(dy)
    else:
        of_x = by_shards(functools.partial(calls.input_gradient, size=size, stride=stride), dy, kernel)
    return of_x, of_kernel


_direct.defvjp(_forward, _backward)
