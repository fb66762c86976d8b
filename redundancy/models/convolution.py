"""Convolutions without bias, in the form that suits the platform; parameters are the same in every form.

XLA's convolutions are right for accelerators. On CPU they reach half of the processor's arithmetic rate or less where
channels are few, so there compiled kernels of our own take their place (cpu_kernels.py).
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from redundancy.models import mixed_precision

FORMULATIONS = ("xla", "cpu")
_MOST_WEIGHTS = 2**20  # of a kernel; measured: beyond, matrix products are as fast and need no partial sums


def formulation_for(platform: str) -> str:
    """The form of convolutions that is fastest on "cpu", "gpu" or "tpu"."""
    return "cpu" if platform == "cpu" else "xla"


def convolve(x: jax.Array, kernel: jax.Array, strides: tuple[int, int] = (1, 1), formulation: str = "xla") -> jax.Array:
    """Convolution with padding "SAME".

    Args:
      x: `[B, H, W, C]`, of the type to compute in.
      kernel: `[h, w, C, D]`, of the same type.
      strides: of height and width.
      formulation: "xla", or "cpu": faster there; equal up to rounding.

    Returns:
      `[B, ceil(H / stride), ceil(W / stride), D]` of x's type.
    """
    if formulation not in FORMULATIONS:
        raise ValueError(f"formulation is {formulation!r}; wanted one of {', '.join(FORMULATIONS)}")
    if formulation == "cpu":
        if x.shape[0] and _has_own_kernel(kernel.shape, strides):
            return _direct(x.astype(jnp.float32), kernel.astype(jnp.float32), strides[0]).astype(x.dtype)
        if kernel.shape[:2] == (1, 1):
            return jnp.einsum("bhwc,cd->bhwd", x[:, :: strides[0], :: strides[1]], kernel[0, 0])
    return _plain(x, kernel, strides)


def _plain(x, kernel, strides):
    return jax.lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


class Conv(nn.Module):
    """`convolve` with its parameter, named and shaped as `nn.Conv` does: "kernel", `[h, w, C, features]` float32.

    Attributes:
      features: channels of the output.
      kernel_size, strides: of height and width.
      dtype: type to compute in.
      kernel_init: initializer of the kernel.
      formulation: see `convolve`.
    """

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dtype: jnp.dtype = jnp.float32
    kernel_init: Any = nn.initializers.he_normal()
    formulation: str = "xla"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: `[B, H, W, C]` -> `[B, ceil(H / stride), ceil(W / stride), features]`."""
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        if self.formulation == "xla" and self.dtype != jnp.float32:
            padding = tuple(jax.lax.padtype_to_pads(x.shape[1:3], self.kernel_size, self.strides, "SAME"))
            return mixed_precision.convolution(x.astype(self.dtype), kernel, tuple(self.strides), padding)
        return convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.strides, self.formulation)


def _has_own_kernel(kernel_shape, strides) -> bool:
    from redundancy.models import cpu_calls  # brings a compiler along, which no accelerator needs

    height, width, channels, features = kernel_shape
    return (
        height == width
        and strides[0] == strides[1]
        and cpu_calls.lanes(features) > 0
        and height * width * channels * features < _MOST_WEIGHTS
        and cpu_calls.available()
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _direct(x, kernel, stride):
    from redundancy.models import cpu_calls

    return _by_shards(functools.partial(cpu_calls.forward, stride=stride), x, kernel)


def _forward(x, kernel, stride):
    return _direct(x, kernel, stride), (x, kernel)


def _backward(stride, saved, dy):
    from redundancy.models import cpu_calls

    x, kernel = saved
    taps, size, channels = kernel.shape[0], x.shape[1:3], x.shape[3]
    of_kernel = _by_shards(functools.partial(cpu_calls.kernel_gradient, taps=taps, stride=stride), x, dy, sums=True)
    if not cpu_calls.lanes(channels):
        (of_x,) = jax.linear_transpose(lambda x: _plain(x, kernel, (stride, stride)), x)(dy)
    else:
        of_x = _by_shards(functools.partial(cpu_calls.input_gradient, size=size, stride=stride), dy, kernel)
    return of_x, of_kernel


_direct.defvjp(_forward, _backward)


def _by_shards(function, batch, other, sums=False):
    """`function(batch, other)` on each device's share of the images where the mesh's axis "data" has several.

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
    # XLA cannot cut what it does not know: it would gather the whole batch on every device.
    specs = (P("data"), P("data") if sums else P())

    def share(batch, other):
        result = function(batch, other)
        return jax.lax.psum(result, "data") if sums else result

    cut = jax.shard_map(
        share, in_specs=specs, out_specs=P() if sums else P("data"), axis_names={"data"}, check_vma=False
    )
    return cut(batch, other)
