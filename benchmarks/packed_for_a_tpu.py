"""Asks the TPU compiler what a pack's residual blocks cost in three forms: trials in turn, `vmap`, and side by side in lanes.

    python -m benchmarks.packed_for_a_tpu [--topology v5e:2x2 …] [--trials 4 8 16] [--batch B] [--form NAME …]

Wants libtpu, on a machine of any kind; no TPU. A line of JSON for a block of each stage of CIFAR's ResNets, forward and both
gradients: the cycles that the compiler estimates and the bytes of HBM that it counts, for each trial. *In lanes* puts the
channels of several trials into the 128 lanes of the matrix unit, the trials' kernels as blocks on the diagonal of a dense one.
*Wide* is one block of all the trials' channels: what lanes would come to if everything between the convolutions stayed in them.
"""

import argparse
import dataclasses
import functools
import json
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

_LANES = 128


@dataclasses.dataclass(frozen=True, eq=False)
class Lanes:
    """Convolutions of a pack as dense ones of the trials' channels side by side."""

    def forward(self, x, kernel, stride):
        trials, batch, height, width, channels = x.shape
        group = max(1, min(trials, _LANES // max(channels, kernel.shape[-1])))
        while trials % group:
            group -= 1
        taps, outputs = kernel.shape[1], kernel.shape[-1]
        blocks = kernel.reshape(trials // group, group, taps, taps, channels, outputs)
        eye = jnp.eye(group, dtype=kernel.dtype)
        dense = jnp.einsum("ngabio,gh->abginho", blocks, eye).reshape(taps, taps, group * channels, trials * outputs)
        side = jnp.moveaxis(x, 0, 3).reshape(batch, height, width, trials * channels)
        made = jax.lax.conv_general_dilated(
            side,
            dense,
            (stride, stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=trials // group,
        )
        return jnp.moveaxis(made.reshape(*made.shape[:3], trials, outputs), 3, 0)

    def input_gradient(self, dy, kernel, size, stride):
        x = jax.ShapeDtypeStruct((*dy.shape[:2], *size, kernel.shape[3]), dy.dtype)
        return jax.linear_transpose(lambda x: self.forward(x, kernel, stride), x)(dy)[0]

    def kernel_gradient(self, x, dy, taps, stride):
        kernel = jax.ShapeDtypeStruct((x.shape[0], taps, taps, x.shape[4], dy.shape[4]), x.dtype)
        return jax.linear_transpose(lambda kernel: self.forward(x, kernel, stride), kernel)(dy)[0].astype(jnp.float32)


def of_block(device, side: int, width: int, trials: int, batch: int, form: str) -> dict:
    """Cycles and MiB of the gradient of a block of each trial, as the compiler counts them."""
    packs = {"formulation": "packed", "packs": Lanes()} if form == "in lanes" else {}
    width *= trials if form == "wide" else 1
    norm = functools.partial(BatchNorm, dtype=jnp.bfloat16, relu=True, formulation=packs.get("formulation", "xla"))
    init = KERNEL_INITS["he_fan_out"]
    conv = functools.partial(Conv, dtype=jnp.bfloat16, kernel_init=init, **{"formulation": "xla", **packs})
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
    parser.add_argument("--form", nargs="*", default=["in turn", "vmap", "in lanes", "wide"])
    flags = parser.parse_args()
    for topology in flags.topology:
        device = topologies.get_topology_desc(topology, platform="tpu").devices[0]
        for side, width in ((32, 16), (16, 32), (8, 64)):
            for form in flags.form:
                for trials in (1,) if form == "in turn" else flags.trials:
                    if form == "wide" and trials * width > _LANES:
                        continue
                    began = time.perf_counter()
                    found = of_block(device, side, width, trials, flags.batch, form)
                    about = {"topology": topology, "side": side, "channels": width, "form": form, "trials": trials}
                    print(json.dumps(about | found | {"compiled_s": round(time.perf_counter() - began, 1)}), flush=True)


if __name__ == "__main__":
    main()
