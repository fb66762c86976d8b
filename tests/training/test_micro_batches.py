"""A batch computed a part at a time equals the batch at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from redundancy.models.batch_norm import BatchNorm
from redundancy.training.micro_batches import mean_value_and_grad


@pytest.mark.parametrize(("count", "shards", "unroll"), [(4, 1, False), (2, 1, True), (2, 2, True)])
def test_parts_of_whole_groups_equal_the_batch(count, shards, unroll):
    norm = BatchNorm(group_size=3, relu=True)
    images, targets = jax.random.normal(jax.random.key(0), (12, 4, 4, 2)) * 3 + 1, jnp.arange(12.0)
    variables = norm.init(jax.random.key(1), images, train=False)

    def loss_of(params, images, targets):
        out, updated = norm.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        return jnp.square(out.sum(axis=(1, 2, 3)) - targets).mean(), updated["batch_stats"]

    def result(count, shards):
        with jax.set_mesh(jax.make_mesh((1, 1), ("trial", "data"), axis_types=(AxisType.Auto,) * 2)):
            return jax.jit(
                lambda params: mean_value_and_grad(loss_of, params, (images, targets), count, shards, unroll)
            )(variables["params"])

    for expected, found in zip(jax.tree.leaves(result(1, 1)), jax.tree.leaves(result(count, shards)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5)
