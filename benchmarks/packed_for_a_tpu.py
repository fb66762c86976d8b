"""Asks the TPU compiler what a pack's residual blocks cost: trials in turn, under `vmap`, and as one wide block.

    python -m benchmarks.packed_for_a_tpu [--topology v5e:2x2 …] [--trials 4 8 16] [--batch B]

Wants libtpu, on a machine of any kind; no TPU. A line of JSON for a block of each stage of CIFAR's ResNets, forward and both
gradients: the cycles that the compiler estimates and the bytes of HBM that it counts, for each trial. *Wide* is one block of
all the trials' channels: the least that trials side by side in the lanes of the matrix unit could come to.
"""

import argparse
import functools
import json
import os
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from redundancy.models.batch_norm import BatchNorm
from redundancy.models.convolution import Conv
from redundancy.models.resnet import KERNEL_INITS, BasicBlock
from redundancy.preflight.compile import ENVIRONMENT

_LANES = 128


def of_block(device, side: int, width: int, trials: int, batch: int, form: str) -> dict:
    """Cycles and MiB of the gradient of a block of each trial, as the compiler counts them."""
    width *= trials if form == "wide" else 1
    norm = functools.partial(BatchNorm, dtype=jnp.bfloat16, relu=True)
    init = KERNEL_INITS["he_fan_out"]
    conv = functools.partial(Conv, dtype=jnp.bfloat16, kernel_init=init)
    block, size = BasicBlock(width, 1, norm, conv, init), (batch, side, side, width)

    def loss(params, x, dy):
        y, _ = block.apply({"params": params, "batch_stats": stats}, x, True, mutable=["batch_stats"])
        return (y * dy).astype(jnp.float32).sum()

    variables = jax.eval_shape(lambda: block.init(jax.random.key(0), jnp.zeros(size, jnp.bfloat16), True))
    stats = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), variables["batch_stats"])
    gradient, alone = jax.grad(loss, (0, 1)), form in ("in turn", "wide")
    on = NamedSharding(Mesh(np.array([device]), "x"), PartitionSpec())

    def shape(leaf):
        return jax.ShapeDtypeStruct(leaf.shape if alone else (trials, *leaf.shape), leaf.dtype, sharding=on)

    x = shape(jax.ShapeDtypeStruct(size, jnp.bfloat16))
    made = (
        jax.jit(gradient if alone else jax.vmap(gradient))
        .lower(jax.tree.map(shape, variables["params"]), x, x)
        .compile()
    )
    cycles = sum(int(each) for each in re.findall(r'"estimated_cycles":"(\d+)"', made.as_text()))
    return {
        "cycles_a_trial": cycles // trials,
        "mib_a_trial": round(made.cost_analysis()["bytes accessed"] / trials / 2**20, 1),
        "temporary_mib_a_trial": round(made.memory_analysis().temp_size_in_bytes / trials / 2**20, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--topology", nargs="*", default=["v5e:2x2", "v6e:2x2"])
    parser.add_argument("--trials", type=int, nargs="*", default=[4, 8, 16])
    parser.add_argument("--batch", type=int, default=128)
    flags = parser.parse_args()
    os.environ.update(ENVIRONMENT)  # before libtpu is loaded
    jax.config.update("jax_platforms", "cpu")
    for topology in flags.topology:
        device = topologies.get_topology_desc(topology, platform="tpu").devices[0]
        for side, width in ((32, 16), (16, 32), (8, 64)):
            packs = {"in turn": [1], "vmap": flags.trials, "wide": [_LANES // width]}
            for form, trials in ((form, trials) for form, of_form in packs.items() for trials in of_form):
                began = time.perf_counter()
                found = of_block(device, side, width, trials, flags.batch, form)
                about = {"topology": topology, "side": side, "channels": width, "form": form, "trials": trials}
                print(json.dumps(about | found | {"compiled_s": round(time.perf_counter() - began, 1)}), flush=True)


if __name__ == "__main__":
    main()
