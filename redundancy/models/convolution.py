"""Convolutions without bias, in a formulation that suits the platform; parameters are the same in all formulations.

XLA's convolutions suit accelerators. On CPUs, with few channels, they reach at most half of the processor's arithmetic rate, so
the folder cpu has our own kernels. On GPUs they are slow for several trials at once, for which the folder gpu has kernels.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from redundancy.models import gpu, mixed_precision

FORMULATIONS = ("xla", "cpu", "packed")


def formulation_for(platform: str) -> str:
    """The fastest formulation of a single trial's convolutions on "cpu", "gpu" or "tpu"."""
    return "cpu" if platform == "cpu" else "xla"


def convolve(x: jax.Array, kernel: jax.Array, strides: tuple[int, int] = (1, 1), formulation: str = "xla") -> jax.Array:
    """Convolution with padding "SAME".

    Args:
      x: `[B, H, W, C]`, in the type to compute in.
      kernel: `[h, w, C, D]`, of the same type.
      strides: of height and width.
      formulation: "xla", or "cpu", which is faster on CPUs; equal up to rounding. "packed" is treated as "xla".

    Returns:
      `[B, ceil(H / stride), ceil(W / stride), D]` of x's type.
    """
    if formulation not in FORMULATIONS:
        raise ValueError(f"formulation is {formulation!r}; wanted one of {', '.join(FORMULATIONS)}")
    if formulation == "cpu":
        from redundancy.models import cpu  # imports a compiler, which accelerators do not need

        if (result := cpu.convolve(x, kernel, strides)) is not None:
            return result
        if kernel.shape[:2] == (1, 1):
            return jnp.einsum("bhwc,cd->bhwd", x[:, :: strides[0], :: strides[1]], kernel[0, 0])
    return jax.lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


class Conv(nn.Module):
    """`convolve` with its parameter, named and shaped as in `nn.Conv`: "kernel", `[h, w, C, features]` float32.

    Attributes:
      features: channels of the output.
      kernel_size, strides: of height and width.
      dtype: type to compute in.
      kernel_init: initializer of the kernel.
      formulation: see `convolve`.
      packs: for the formulation "packed", the kernels that compute several trials at once under `jax.vmap`.
    """

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dtype: jnp.dtype = jnp.float32
    kernel_init: Any = nn.initializers.he_normal()
    formulation: str = "xla"
    packs: gpu.Packs | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves x `[B, H, W, C]`; returns `[B, ceil(H / stride), ceil(W / stride), features]`."""
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        if self.packs is not None and len({*self.kernel_size}) == len({*self.strides}) == 1:
            return gpu.convolution(x.astype(self.dtype), kernel, self.strides[0], self.packs)
        if self.formulation != "cpu" and self.dtype != jnp.float32:
            padding = tuple(jax.lax.padtype_to_pads(x.shape[1:3], self.kernel_size, self.strides, "SAME"))
            return mixed_precision.convolution(x.astype(self.dtype), kernel, tuple(self.strides), padding)
        return convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.strides, self.formulation)
