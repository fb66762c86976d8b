"""BatchNorm in the form that accelerators compute: bfloat16 in and out, statistics and gradients in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from redundancy.models.batch_norm import BatchNorm


@pytest.mark.parametrize("group_size", [0, 4])
def test_narrow_images_lose_only_the_rounding_of_in_and_output(group_size):
    x = (jax.random.normal(jax.random.key(0), (8, 3, 5, 2)) * 2 + 3).astype(jnp.bfloat16)
    weights = jax.random.normal(jax.random.key(1), x.shape).astype(jnp.bfloat16).astype(jnp.float32)

    def run(x, dtype):
        norm = BatchNorm(group_size=group_size, dtype=dtype, relu=True)
        variables = norm.init(jax.random.key(2), x, train=False)

        def loss(params, x):
            y, updated = norm.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
            return (y.astype(jnp.float32) * weights).sum(), (y, updated["batch_stats"])

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(variables["params"], x)

    (of_params, of_x), (y, stats) = run(x, jnp.bfloat16)
    (exact_params, exact_x), (exact_y, exact_stats) = run(x.astype(jnp.float32), jnp.float32)
    assert (y.dtype, of_x.dtype) == (jnp.bfloat16, jnp.bfloat16)
    np.testing.assert_allclose(y.astype(jnp.float32), exact_y, rtol=2**-8)
    np.testing.assert_allclose(of_x.astype(jnp.float32), exact_x, rtol=2**-8, atol=1e-4)
    for found, exact in ((of_params, exact_params), (stats, exact_stats)):
        for name, leaf in found.items():
            assert leaf.dtype == jnp.float32
            np.testing.assert_allclose(leaf, exact[name], rtol=1e-4, atol=1e-4)
