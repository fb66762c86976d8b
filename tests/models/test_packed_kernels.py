"""The kernels for packs, in Triton's interpreter, against XLA's convolutions and their gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from redundancy.models.gpu import convolution, tiles
from redundancy.models.gpu.calls import call_of, serves
from redundancy.models.gpu.cards import Card
from redundancy.models.gpu.shape import Shape
from redundancy.models.gpu.tiles import Tile
from tests.models import interpreter
from tests.tiers import soaked

pytestmark = pytest.mark.skipif(interpreter.kernels is None, reason="triton is not installed")

SHAPES = [  # trials, batch, height, width, channels, features, taps, stride
    (1, 2, 6, 6, 16, 16, 3, 1),
    (2, 1, 7, 6, 3, 16, 3, 1),
    (1, 2, 7, 6, 16, 24, 3, 2),
    (3, 2, 9, 8, 5, 7, 1, 2),
    (1, 1, 9, 8, 2, 8, 7, 2),
    (1, 2, 5, 6, 4, 17, 2, 1),
]  # fmt: skip


def _xla(x, kernel, stride):
    def one(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
        )

    return jax.vmap(one)(x, kernel)


def check(shape: Shape, dtype, tile_of):
    """Compares all three kernels; inputs that bfloat16 holds, so that only results are rounded."""
    rng = np.random.default_rng(0)
    x, kernel, dy = (
        rng.standard_normal(size, np.float32).astype(jnp.bfloat16).astype(dtype)
        for size in (shape.x, shape.kernel, shape.y)
    )
    wide = [jnp.asarray(array, jnp.float32) for array in (x, kernel, dy)]
    y, pull_back = jax.vjp(lambda x, kernel: _xla(x, kernel, shape.stride), *wide[:2])
    wanted = dict(zip(tiles.KINDS, (y, *pull_back(wide[2])), strict=True))
    given = dict(zip(tiles.KINDS, ((x, kernel), (dy, kernel), (x, dy)), strict=True))
    for kind in tiles.KINDS:
        found = interpreter.run(call_of(kind, shape, jnp.dtype(dtype), tile_of(kind)), *given[kind])
        if kind == "kernel_gradient":
            assert found.dtype == np.float32
            found = found.sum(0)
        else:
            assert found.dtype == dtype
        scale = np.abs(wanted[kind]).max()
        rounding = 2.0**-7 if found.dtype == jnp.bfloat16 else 1e-5  # the interpreter cuts off
        np.testing.assert_allclose(found.astype(np.float32), wanted[kind], rtol=0, atol=rounding * scale, err_msg=kind)


@pytest.mark.parametrize(
    ("sizes", "dtype"),
    [*((sizes, jnp.float32) for sizes in SHAPES[1:]), *((sizes, jnp.bfloat16) for sizes in SHAPES[:3])],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_kernels_equal_xlas_convolutions_and_gradients(sizes, dtype):
    shape = Shape(*sizes)
    check(shape, dtype, lambda kind: tiles.usual(kind, shape, dtype == jnp.float32, 90))


EVERY = [
    (1 + taps % 2, 2, 10 - taps % 3, 8 + stride, channels, 12, taps, stride)
    for taps in range(1, 8)
    for stride in (1, 2)
    for channels in (1, 3, 16, 20)
]  # fmt: skip


@pytest.mark.parametrize("sizes", soaked(*[(sizes,) for sizes in EVERY]), ids=str)
def test_kernels_of_every_size(sizes):
    shape = Shape(*sizes)
    check(shape, jnp.float32, lambda kind: tiles.usual(kind, shape, True, 90))


@pytest.mark.parametrize(
    "tile",
    [
        Tile(16, 32, 32, shares=3),
        Tile(16, 16, 32, shares=2, stages=0, lines=2),
        *soaked(
            Tile(16, 16, 16, shares=7),
            Tile(16, 64, 32, shares=2, stages=0),
            Tile(128, 32, 16, shares=9, stages=2),
            Tile(16, 64, 16, shares=1, lines=3),
            Tile(32, 16, 64, shares=5, lines=4, stages=0),
            Tile(16, 16, 16, lines=8, shares=2),
        ),
    ],
    ids=str,
)
def test_any_tile_gives_the_same(tile):
    check(Shape(1, 3, 5, 6, 20, 36, 2, 2), jnp.float32, lambda _: tile)


OF_LINES = [
    (1 + lines % 2, 2, 7 + lines, 6 + stride, channels, 12, taps, stride, lines, stages)
    for taps in (2, 3)
    for stride in (1, 2)
    for lines, stages in ((2, 0), (3, 3), (4, 2), (8, 0))
    for channels in (3, 20)
]  # fmt: skip


@pytest.mark.parametrize(
    "sizes", soaked(*[(sizes,) for sizes in [*OF_LINES, (1, 2, 9, 8, 5, 12, 7, 2, 2, 0)]]), ids=str
)
def test_several_lines_of_every_size(sizes):
    *sizes, lines, stages = sizes
    check(Shape(*sizes), jnp.float32, lambda _: Tile(32, 16, 16, shares=2, stages=stages, lines=lines))


def test_the_same_every_time_and_one_trial_as_in_a_pack():
    shape = Shape(2, 2, 5, 5, 16, 16, 1, 1)
    alone = dataclasses.replace(shape, trials=1)
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal(size, np.float32) for size in (shape.x, shape.y))
    tile = tiles.usual("kernel_gradient", shape, True, 90)
    first = interpreter.run(call_of("kernel_gradient", shape, jnp.float32, tile), x, dy)
    again = interpreter.run(call_of("kernel_gradient", shape, jnp.float32, tile), x, dy)
    np.testing.assert_array_equal(first, again)
    second = interpreter.run(call_of("kernel_gradient", alone, jnp.float32, tile), x[1:], dy[1:])
    np.testing.assert_array_equal(second[:, 0], first[:, 1])


def test_a_pack_through_rules_and_calls_equals_its_trials():
    shape = Shape(2, 1, 5, 4, 3, 20, 2, 2)
    kernels = interpreter.Interpreted(Card("none", 90))
    rng = np.random.default_rng(0)
    x, kernel, dy = (jnp.asarray(rng.standard_normal(size, np.float32)) for size in (shape.x, shape.kernel, shape.y))

    def both(x, kernel, dy):
        y, pull_back = jax.vjp(lambda x, kernel: convolution(x, kernel, 2, kernels), x, kernel)
        return y, *pull_back(dy)

    found = jax.jit(jax.vmap(both))(x, kernel, dy)
    wanted = [both(x[trial], kernel[trial], dy[trial]) for trial in range(2)]
    for ours, *alone in zip(found, *wanted, strict=True):
        np.testing.assert_allclose(ours, jnp.stack(alone), rtol=0, atol=1e-5 * np.abs(alone[0]).max())


def test_what_is_left_to_xla():
    shape = Shape(2, 2, 8, 8, 16, 16, 3, 1)
    assert serves(shape, jnp.bfloat16)
    assert not serves(shape, jnp.float16)
    for other in ({"taps": 9}, {"stride": 3}, {"batch": 0}, {"trials": 2**16}, {"batch": 2**21}):
        assert not serves(dataclasses.replace(shape, **other), jnp.bfloat16)
