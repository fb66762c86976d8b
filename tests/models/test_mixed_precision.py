"""The convolution with a float32 kernel gradient against plain autodiff."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from redundancy.models.convolution import Conv
from redundancy.models.mixed_precision import convolution, kernel_gradient


def _case(size, taps, stride):
    x, kernel = (
        jax.random.normal(jax.random.key(seed), shape)
        for seed, shape in enumerate([(4, size, size + 1, 3), (taps, taps, 3, 5)])
    )
    padding = tuple(jax.lax.padtype_to_pads(x.shape[1:3], (taps, taps), (stride, stride), "SAME"))

    def plain(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def ours(x, kernel):
        return convolution(x, kernel, (stride, stride), padding)

    def of_kernel(x, gradient):
        return kernel_gradient(x, gradient, (taps, taps), (stride, stride), padding)

    return x, kernel, plain, ours, of_kernel


CASES = [(4, 3, 1), (5, 3, 2), (4, 1, 2), (8, 7, 2)]


@pytest.mark.parametrize(("size", "taps", "stride"), CASES)
def test_output_and_gradients_equal_plain_autodiff(size, taps, stride):
    x, kernel, plain, ours, of_kernel = _case(size, taps, stride)
    expected, pull = jax.vjp(plain, x, kernel)
    found, our_pull = jax.vjp(ours, x, kernel)
    gradient = jax.random.normal(jax.random.key(2), expected.shape)
    for theirs, mine in zip((expected, *pull(gradient)), (found, *our_pull(gradient)), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(of_kernel(x, gradient), pull(gradient)[1], rtol=1e-5, atol=1e-4)


def test_kernel_gradient_of_narrow_images_is_not_rounded():
    x, kernel, plain, ours, of_kernel = _case(8, 3, 2)
    x, narrow = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    found, our_pull = jax.vjp(ours, x, kernel)
    expected, pull = jax.vjp(plain, x, narrow)
    np.testing.assert_array_equal(found, expected)
    gradient = jax.random.normal(jax.random.key(2), expected.shape).astype(jnp.bfloat16)
    np.testing.assert_array_equal(our_pull(gradient)[0], pull(gradient)[0])
    mine, rounded = of_kernel(x, gradient), np.asarray(pull(gradient)[1], np.float32)
    assert mine.dtype == our_pull(gradient)[1].dtype == jnp.float32
    _, exact = jax.vjp(plain, x.astype(jnp.float32), narrow.astype(jnp.float32))
    exact = exact(gradient.astype(jnp.float32))[1]
    np.testing.assert_allclose(mine, exact, rtol=1e-5, atol=1e-4)
    assert np.abs(rounded - exact).max() > 10 * np.abs(mine - exact).max()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_module_is_flaxs_with_the_same_parameters(dtype):
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 3))
    ours = Conv(5, (3, 3), (2, 2), dtype=dtype, kernel_init=nn.initializers.lecun_normal())
    theirs = nn.Conv(5, (3, 3), (2, 2), padding="SAME", use_bias=False, dtype=dtype)
    variables = ours.init(jax.random.key(1), x)
    np.testing.assert_array_equal(ours.apply(variables, x), theirs.apply(variables, x))
    for mine, other in zip(
        jax.tree.leaves_with_path(variables), jax.tree.leaves_with_path(theirs.init(jax.random.key(1), x)), strict=True
    ):
        assert mine[0] == other[0]
        np.testing.assert_array_equal(mine[1], other[1])
