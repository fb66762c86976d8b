"""Gradients of a batch, computed part by part, so that only the activations of one part are in memory.

If every part consists of whole BatchNorm groups, the result equals that of the whole batch up to the order of sums.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P


def _cut(array: jax.Array, count: int, shards: int) -> jax.Array:
    """`[B, …]` over "data" -> `[count, B / count, …]`; every image stays on its device, and groups stay together."""
    size = array.shape[0] // (count * shards)
    parts = jnp.moveaxis(array.reshape(shards, count, size, *array.shape[1:]), 1, 0)
    return jax.lax.with_sharding_constraint(parts.reshape(count, shards * size, *array.shape[1:]), P(None, "data"))


def mean_value_and_grad(
    loss_of: Callable, params: Any, batch: tuple[jax.Array, ...], count: int, shards: int, unroll: bool = False
) -> tuple[tuple[jax.Array, Any], Any]:
    """As jax.value_and_grad(loss_of, has_aux=True)(params, *batch), for loss and aux that are means over images.

    Args:
      loss_of: (params, *part of the batch) -> (loss, aux), floating-point arrays that are means over images, or over
        groups of images that lie in one part.
      params: parameters with respect to which the loss is differentiated.
      batch: arrays `[B, …]`, sharded over the mesh's axis "data".
      count: parts; must divide each device's share of the batch.
      shards: devices along "data".
      unroll: whether to unroll the loop over parts, for CPUs. The compiler may then overlap parts and use the memory of
        several.

    Returns:
      ((loss, aux), gradients), summed over the devices once, after the last part.
    """
    compute = jax.value_and_grad(loss_of, has_aux=True)
    if count == 1:
        return compute(params, *batch)
    parts = tuple(_cut(array, count, shards) for array in batch)

    def add(total, part):
        return jax.tree.map(jnp.add, total, compute(params, *part)), None

    like = jax.eval_shape(compute, params, *(jax.ShapeDtypeStruct(part.shape[1:], part.dtype) for part in parts))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
    total, _ = jax.lax.scan(add, zeros, parts, unroll=count if unroll else 1)
    return jax.tree.map(lambda leaf: leaf / count, total)
