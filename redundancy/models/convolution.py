"""Convolutions without bias, in the form that suits the platform; parameters are the same in every form.

XLA's convolutions are right for accelerators. On CPU its matrix products reach about twice the arithmetic rate of its
convolutions, so there 3 x 3 convolutions become Winograd's F(4 x 4, 3 x 3) (Lavin & Gray 2016): linear maps of tiles
and one batched matrix product with a quarter of the multiplications.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from redundancy.models import mixed_precision

FORMULATIONS = ("xla", "cpu")
_LEAST_CHANNELS = 32  # see _winograd_pays
_PART_BYTES = 2**21  # of a batch, see _in_parts

# Lavin & Gray 2016, section 4.3: Y = A'[(G g G') * (B' d B)]A for a 6 x 6 tile d and a 3 x 3 kernel g.
_TILE, _WINDOW = 4, 6
_INPUT = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    np.float32,
)
_KERNEL = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6] * 3,
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    np.float32,
)
_OUTPUT = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], np.float32)


def formulation_for(platform: str) -> str:
    """The form of convolutions that is fastest on "cpu", "gpu" or "tpu"."""
    return "cpu" if platform == "cpu" else "xla"


def convolve(x: jax.Array, kernel: jax.Array, strides: tuple[int, int] = (1, 1), formulation: str = "xla") -> jax.Array:
    """Convolution with padding "SAME".

    Args:
      x: `[B, H, W, C]`, of the type to compute in.
      kernel: `[h, w, C, D]`, of the same type.
      strides: of height and width.
      formulation: "xla", or "cpu": faster there; equal up to rounding, about 1e-5 of the greatest output.

    Returns:
      `[B, ceil(H / stride), ceil(W / stride), D]` of x's type.
    """
    if formulation not in FORMULATIONS:
        raise ValueError(f"formulation is {formulation!r}; wanted one of {', '.join(FORMULATIONS)}")
    if formulation == "cpu":
        if kernel.shape[:2] == (1, 1):
            return jnp.einsum("bhwc,cd->bhwd", x[:, :: strides[0], :: strides[1]], kernel[0, 0])
        if kernel.shape[:2] == (3, 3) and tuple(strides) == (1, 1):
            if _winograd_pays(x.shape, kernel.shape):
                return _winograd(x.astype(jnp.float32), kernel.astype(jnp.float32)).astype(x.dtype)
            if kernel.shape[2] >= 16:
                return _in_parts(x, kernel)
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


def _winograd_pays(shape, kernel_shape):
    """Measured on AMD EPYC (Zen 4): the products must outweigh the transforms of tiles, and those of the kernel."""
    batch, height, width, _ = shape
    tiles = batch * -(-height // _TILE) * -(-width // _TILE)
    return min(kernel_shape[2:]) >= _LEAST_CHANNELS and tiles >= max(kernel_shape[2:])


@jax.custom_vjp
def _in_parts(x, kernel):
    """XLA's convolution, whose kernel's gradient is summed over parts of the batch that stay in a core's cache."""
    return _plain(x, kernel, (1, 1))


def _in_parts_forward(x, kernel):
    return _plain(x, kernel, (1, 1)), (x, kernel)


def _in_parts_backward(saved, dy):
    x, kernel = saved
    (dx,) = jax.linear_transpose(lambda x: _plain(x, kernel, (1, 1)), x)(dy)
    parts = _parts(dy.shape[0], dy.size * dy.dtype.itemsize)
    of_parts = [
        jax.linear_transpose(lambda kernel, x=x: _plain(x, kernel, (1, 1)), kernel)(dy)[0]
        for x, dy in zip(jnp.split(x, parts), jnp.split(dy, parts), strict=True)
    ]
    return dx, sum(of_parts)


_in_parts.defvjp(_in_parts_forward, _in_parts_backward)


def _parts(batch, num_bytes):
    """Into how many equal parts to cut a batch of this size; at most 8, since each is compiled on its own."""
    wanted = min(8, num_bytes // _PART_BYTES)
    return max(number for number in range(1, max(1, wanted) + 1) if batch % number == 0)


# Images lie as [H, W, B, C] inside, so that a window's pixel is one long run of memory in every tile. XLA keeps
# that layout from one convolution to the next: the transposes at both ends become changes of layout, not copies.


@jax.custom_vjp
def _winograd(x, kernel):
    return _forward(x, kernel)[0]


def _forward(x, kernel):
    _, height, width, _ = x.shape
    products = jnp.einsum("abijnc,abcd->abijnd", _to_windows(_tiled(x)), _transform_kernel(kernel))
    return _from_windows(products)[:height, :width].transpose(2, 0, 1, 3), (x, kernel)


def _backward(saved, dy):
    x, kernel = saved
    _, height, width, _ = x.shape
    # XLA finds that the windows of x are those of the forward pass, and keeps them.
    windows, gradients = _to_windows(_tiled(x)), _from_windows_transposed(_tiled(dy))
    d_transformed = jnp.einsum("abijnc,abijnd->abcd", windows, gradients)
    d_windows = jnp.einsum("abijnd,abcd->abijnc", gradients, _transform_kernel(kernel))
    dx = _to_windows_transposed(d_windows)[:height, :width].transpose(2, 0, 1, 3)
    return dx, jnp.einsum("ak,bl,abcd->klcd", _KERNEL, _KERNEL, d_transformed)


_winograd.defvjp(_forward, _backward)


def _tiled(x):
    """`[B, H, W, C]` -> `[H', W', B, C]`, with zeros up to whole tiles."""
    _, height, width, _ = x.shape
    return jnp.pad(x.transpose(1, 2, 0, 3), ((0, -height % _TILE), (0, -width % _TILE), (0, 0), (0, 0)))


def _transform_kernel(kernel):
    return jnp.einsum("ak,bl,klcd->abcd", _KERNEL, _KERNEL, kernel)


def _combine(matrix, parts):
    """Rows of a small constant matrix times a list of arrays, as a list; written out, so that XLA fuses it."""
    return [sum(float(factor) * part for factor, part in zip(row, parts, strict=True) if factor) for row in matrix]


def _to_windows(x):
    """`[4i, 4j, B, C]` -> transformed windows `[6, 6, i, j, B, C]`; neighbours overlap by 2 pixels."""
    rows, columns = x.shape[0] // _TILE, x.shape[1] // _TILE
    x = jnp.pad(x, ((1, 1), (1, 1), (0, 0), (0, 0)))
    x = jnp.stack(_combine(_INPUT, [x[k : k + _TILE * rows - 3 : _TILE] for k in range(_WINDOW)]))
    return jnp.stack(_combine(_INPUT, [x[:, :, k : k + _TILE * columns - 3 : _TILE] for k in range(_WINDOW)]), axis=1)


def _to_windows_transposed(windows):
    """Gradient of `_to_windows`: `[6, 6, i, j, B, C]` -> `[4i, 4j, B, C]`."""
    _, _, rows, columns, *rest = windows.shape

    def overlap(parts, axis):
        before, after = ([(0, 0)] * parts[0].ndim for _ in range(2))
        before[axis], after[axis] = (1, 0), (0, 1)
        of_previous = jnp.pad(jax.lax.slice_in_dim(parts[5], 0, -1, axis=axis), before)
        of_next = jnp.pad(jax.lax.slice_in_dim(parts[0], 1, None, axis=axis), after)
        return jnp.stack([parts[1] + of_previous, parts[2], parts[3], parts[4] + of_next], axis=axis + 1)

    x = overlap(_combine(_INPUT.T, [windows[:, k] for k in range(_WINDOW)]), 2)
    x = x.reshape(_WINDOW, rows, _TILE * columns, *rest)
    return overlap(_combine(_INPUT.T, list(x)), 0).reshape(_TILE * rows, _TILE * columns, *rest)


def _from_windows(products):
    """Products `[6, 6, i, j, B, D]` -> pixels `[4i, 4j, B, D]`."""
    _, _, rows, columns, *rest = products.shape
    y = jnp.stack(_combine(_OUTPUT, [products[:, k] for k in range(_WINDOW)]), axis=3)
    y = y.reshape(_WINDOW, rows, _TILE * columns, *rest)
    return jnp.stack(_combine(_OUTPUT, list(y)), axis=1).reshape(_TILE * rows, _TILE * columns, *rest)


def _from_windows_transposed(y):
    """Gradient of `_from_windows`: `[4i, 4j, B, D]` -> `[6, 6, i, j, B, D]`."""
    rows, columns, rest = y.shape[0] // _TILE, y.shape[1] // _TILE, y.shape[2:]
    y = y.reshape(rows, _TILE, _TILE * columns, *rest)
    y = jnp.stack(_combine(_OUTPUT.T, [y[:, k] for k in range(_TILE)]))
    y = y.reshape(_WINDOW, rows, columns, _TILE, *rest)
    return jnp.stack(_combine(_OUTPUT.T, [y[:, :, :, k] for k in range(_TILE)]), axis=1)
