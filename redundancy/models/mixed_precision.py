"""A convolution in a narrow type whose kernel gradient is float32 on TPUs.

TPUs sum products of bfloat16 in float32 anyway. Plain autodiff rounds the kernel gradient to bfloat16 and sums it over the
devices in bfloat16; here it remains float32 until it reaches the optimiser.
"""

import functools

import jax
import jax.numpy as jnp

_FORWARD = ("NHWC", "HWIO", "NHWC")
_KERNEL_GRADIENT = ("CHWN", "IHWO", "HWNC")  # the channels of x take the place of the batch, which is summed over


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolution(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: tuple[tuple[int, int], tuple[int, int]]
) -> jax.Array:
    """Convolution in the type of `x`.

    Args:
      x: `[B, H, W, C]`.
      kernel: `[h, w, C, D]` float32; its gradient is float32.
      strides: rows and columns between two outputs.
      padding: number of zeros (before, after), of rows and of columns.

    Returns:
      `[B, H', W', D]` in the type of `x`.
    """
    return _plain(x, kernel, strides, padding)


def _plain(x, kernel, strides, padding):
    return jax.lax.conv_general_dilated(x, kernel.astype(x.dtype), strides, padding, dimension_numbers=_FORWARD)


def kernel_gradient(
    x: jax.Array,
    gradient: jax.Array,
    taps: tuple[int, int],
    strides: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
) -> jax.Array:
    """Gradient with respect to a convolution's kernel, float32 for inputs of any type.

    Args:
      x: input of the convolution, `[B, H, W, C]`.
      gradient: gradient of its output, `[B, H', W', D]`.
      taps: the kernel's rows and columns.
      strides, padding: of the convolution.

    Returns:
      `[h, w, C, D]` float32.
    """
    pads = [
        (before, rows + (out - 1) * stride - before - size)
        for rows, out, stride, (before, _), size in zip(
            taps, gradient.shape[1:3], strides, padding, x.shape[1:3], strict=True
        )
    ]
    return jax.lax.conv_general_dilated(
        x,
        gradient,
        (1, 1),
        pads,
        rhs_dilation=strides,
        dimension_numbers=_KERNEL_GRADIENT,
        preferred_element_type=jnp.float32,
    )


def _forward(x, kernel, strides, padding):
    return _plain(x, kernel, strides, padding), (x, kernel)


def _backward(strides, padding, saved, gradient):
    x, kernel = saved
    (of_x,) = jax.linear_transpose(lambda x: _plain(x, kernel, strides, padding), x)(gradient)

    def exact(x, kernel, gradient):
        return kernel_gradient(x, gradient, kernel.shape[:2], strides, padding)

    def rounded(x, kernel, gradient):
        (of_kernel,) = jax.linear_transpose(lambda kernel: _plain(x, kernel, strides, padding), kernel)(gradient)
        return of_kernel

    # On other devices, a convolution whose output type is wider than its input type may be slow.
    return of_x, jax.lax.platform_dependent(x, kernel, gradient, tpu=exact, default=rounded)


convolution.defvjp(_forward, _backward)
