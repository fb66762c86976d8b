"""Calls code that XLA cannot partition, on each device's share of a batch."""

from collections.abc import Callable

import jax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P


def by_shards(
    function: Callable[[jax.Array, jax.Array], jax.Array],
    batch: jax.Array,
    other: jax.Array,
    sums: bool = False,
    axis: int = 0,
) -> jax.Array:
    """Calls `function(batch, other)` on each device's share of the images, if the mesh's axis "data" has several devices.

    Otherwise XLA would gather the whole batch on every device, since it cannot partition a custom call.

    Args:
      function: function of images and kernels or, with `sums`, of two batches.
      batch: images along `axis`.
      other: kernels or, with `sums`, another batch.
      sums: whether the result is a sum over the batch.
      axis: axis of the images, also in the result.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = dict(zip(mesh.axis_names, mesh.axis_types, strict=True)) if not mesh.empty else {}
    shares = mesh.shape["data"] if axes.get("data") == AxisType.Auto else 1
    if shares == 1 or batch.shape[axis] % shares:
        return function(batch, other)
    cut = P(*(None,) * axis, "data")

    def share(batch, other):
        result = function(batch, other)
        return jax.lax.psum(result, "data") if sums else result

    return jax.shard_map(
        share,
        in_specs=(cut, cut if sums else P()),
        out_specs=P() if sums else cut,
        axis_names={"data"},
        check_vma=False,
    )(batch, other)
