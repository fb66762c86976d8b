"""Calls the kernels through `jax_triton`: determines the result, the number of programs and the tiles of each call."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp

from redundancy.models.gpu import tiles
from redundancy.models.gpu.cards import Card
from redundancy.models.gpu.shape import Shape
from redundancy.models.gpu.tiles import Tile

_MOST_TAPS, _MOST_STRIDE = 7, 2
_TYPES = (jnp.bfloat16, jnp.float32)


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a kernel.

    Attributes:
      kernel: name of the function in kernels.py.
      result: shape and type of its result.
      grid: programs along three axes.
      constants: compile-time constants.
      warps: warps of a program.
      stages: pipeline stages, for the compiler.
    """

    kernel: str
    result: jax.ShapeDtypeStruct
    grid: tuple[int, int, int]
    constants: dict[str, int]
    warps: int
    stages: int


def call_of(kind: str, shape: Shape, dtype: jnp.dtype, tile: Tile) -> Call:
    """The call that computes one of tiles.KINDS."""
    (out_height, out_width), (top, left) = shape.out, shape.before
    constants = dict(
        BATCH=shape.batch, HEIGHT=shape.height, WIDTH=shape.width, CHANNELS=shape.channels, FEATURES=shape.features,
        OUT_HEIGHT=out_height, OUT_WIDTH=out_width, TAPS=shape.taps, STRIDE=shape.stride, TOP=top, LEFT=left,
        PIXELS=tile.pixels, ROWS=tile.rows, COLUMNS=tile.columns, LINES=tile.lines, STAGES=tile.stages,
    )  # fmt: skip

    def blocks(count: int, size: int) -> int:
        return -(-count // size)

    stages = tile.stages or 3
    of_output = blocks(shape.batch * blocks(out_height, tile.lines) * out_width, tile.pixels)
    if kind == "forward":
        result = jax.ShapeDtypeStruct(shape.y, dtype)
        grid = (of_output, blocks(shape.features, tile.columns), shape.trials)
    elif kind == "input_gradient":
        side = (blocks(shape.height, shape.stride * tile.lines), blocks(shape.width, shape.stride))
        pixels = blocks(shape.batch * side[0] * side[1], tile.pixels)
        result = jax.ShapeDtypeStruct(shape.x, dtype)
        grid = (pixels, blocks(shape.channels, tile.columns) * shape.stride**2, shape.trials)
    else:
        constants["TURNS"] = blocks(of_output, tile.shares)
        shares = blocks(of_output, constants["TURNS"])
        result = jax.ShapeDtypeStruct((shares, *shape.kernel), jnp.float32)
        rows = blocks(shape.taps ** (2 if tile.lines == 1 else 1) * shape.channels, tile.rows)
        grid = (shares, rows * blocks(shape.features, tile.columns), shape.trials)
    return Call(kind, result, grid, constants, tile.warps, stages)


@dataclasses.dataclass(frozen=True)
class Kernels:
    """Convolutions of packs on one kind of card. Each method returns None if XLA must compute the convolution.

    Attributes:
      card: card that the kernels are compiled for.
    """

    card: Card

    def forward(self, x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array | None:
        """Outputs of the convolutions.

        Args:
          x: `[T, B, H, W, C]`, bfloat16 or float32.
          kernel: `[T, k, k, C, D]` of the same type.
          stride: down and across.

        Returns:
          `[T, B, ceil(H / stride), ceil(W / stride), D]` of the same type.
        """
        return self._call("forward", Shape.of(x.shape, kernel.shape, stride), x, kernel)

    def input_gradient(self, dy: jax.Array, kernel: jax.Array, size: tuple[int, int], stride: int) -> jax.Array | None:
        """Gradients with respect to the inputs.

        Args:
          dy: `[T, B, H', W', D]`, bfloat16 or float32.
          kernel: `[T, k, k, C, D]` of the same type.
          size: rows and columns of the input.
          stride: of the convolution.

        Returns:
          `[T, B, H, W, C]` of the same type.
        """
        x = (*dy.shape[:2], *size, kernel.shape[3])
        return self._call("input_gradient", Shape.of(x, kernel.shape, stride), dy, kernel)

    def kernel_gradient(self, x: jax.Array, dy: jax.Array, taps: int, stride: int) -> jax.Array | None:
        """Gradients with respect to the kernels, summed over each trial's batch.

        Args:
          x: `[T, B, H, W, C]`, bfloat16 or float32.
          dy: `[T, B, H', W', D]` of the same type.
          taps: number of rows, and of columns, of the kernel.
          stride: of the convolution.

        Returns:
          `[T, k, k, C, D]` float32.
        """
        kernel = (x.shape[0], taps, taps, x.shape[4], dy.shape[4])
        sums = self._call("kernel_gradient", Shape.of(x.shape, kernel, stride), x, dy)
        return None if sums is None else sums.sum(0)

    def _call(self, kind: str, shape: Shape, *arguments: jax.Array) -> jax.Array | None:
        dtype = arguments[0].dtype
        if not serves(shape, dtype):
            return None
        tile = tiles.served(kind, shape, dtype == jnp.float32, self.card)
        return None if tile is None else self.run(call_of(kind, shape, dtype, tile), *arguments)

    def run(self, call: Call, *arguments: jax.Array) -> jax.Array:
        """Runs a call and returns its result."""
        import jax_triton

        from redundancy.models.gpu import kernels

        # jax_triton has renamed this argument in 0.4.
        named = inspect.signature(jax_triton.triton_call).parameters
        result = "out_type" if "out_type" in named else "out_shape"
        return jax_triton.triton_call(
            *arguments,
            kernel=getattr(kernels, call.kernel),
            **{result: call.result},
            grid=call.grid,
            num_warps=call.warps,
            num_stages=call.stages,
            compute_capability=self.card.capability,
            **call.constants,
        )


def serves(shape: Shape, dtype: jnp.dtype) -> bool:
    """Whether the kernels can compute a convolution at all."""
    within_numbers = all(
        shape.batch * pixels[0] * pixels[1] * channels < 2**31  # offsets within one trial are int32
        for pixels, channels in (((shape.height, shape.width), shape.channels), (shape.out, shape.features))
    )
    return (
        dtype in _TYPES
        and min(shape.trials, shape.batch, shape.channels, shape.features) > 0
        and shape.taps <= _MOST_TAPS
        and shape.stride <= _MOST_STRIDE
        and shape.trials < 2**16
        and within_numbers
    )
