"""Convolutions for CPUs by compiled kernels of our own; README.md explains why. Other rooms only call `convolve`."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from redundancy.models.cpu import calls
from redundancy.models.cpu.kernels import lanes

_MOST_WEIGHTS = 2**20  # of a kernel; above, matrix products were measured as fast, and they need no partial sums


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
    return _by_shards(functools.partial(calls.forward, stride=stride), x, kernel)


def _forward(x, kernel, stride):
    return _direct(x, kernel, stride), (x, kernel)


def _backward(stride, saved, dy):
    x, kernel = saved
    taps, size, channels = kernel.shape[0], x.shape[1:3], x.shape[3]
    of_kernel = _by_shards(functools.partial(calls.kernel_gradient, taps=taps, stride=stride), x, dy, sums=True)
    if not lanes(channels):
        (of_x,) = jax.linear_transpose(lambda x: _of_xla(x, kernel, stride), x)(dy)
    else:
        of_x = _by_shards(functools.partial(calls.input_gradient, size=size, stride=stride), dy, kernel)
    return of_x, of_kernel


_direct.defvjp(_forward, _backward)


def _by_shards(function, batch, other, sums=False):
    """`function(batch, other)` on each device's share of the images if the mesh's axis "data" has several.

    Args:
      function: of images and of a kernel, or of two batches, whose sum over images it takes.
      batch: `[B, …]`.
      other: a kernel, or with `sums` another batch.
      sums: whether the result is a sum over the batch.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = dict(zip(mesh.axis_names, mesh.axis_types, strict=True)) if not mesh.empty else {}
    shares = mesh.shape["data"] if axes.get("data") == AxisType.Auto else 1
    if shares == 1 or batch.shape[0] % shares:
        return function(batch, other)
    # XLA cannot partition a custom call: it would gather the whole batch on every device.
    specs = (P("data"), P("data") if sums else P())

    def share(batch, other):
        result = function(batch, other)
        return jax.lax.psum(result, "data") if sums else result

    cut = jax.shard_map(
        share, in_specs=specs, out_specs=P() if sums else P("data"), axis_names={"data"}, check_vma=False
    )
    return cut(batch, other)
