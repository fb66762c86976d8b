"""ResNet v2 in plain Flax, the peer of benchmarks.preflight, which runs it as a child process."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from redundancy.models.resnet import STAGE_BLOCKS


class PlainResNet(nn.Module):
    """Bottleneck ResNet v2: nn.Conv and nn.BatchNorm over the whole batch, all in bfloat16 except the parameters.

    Attributes:
      depth: 50, 101 or 152.
      num_classes: logits.
    """

    depth: int
    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Images `[B, H, W, C]` -> logits `[B, num_classes]`, and the pooled last layer as "end"."""
        conv = functools.partial(nn.Conv, use_bias=False, dtype=jnp.bfloat16)
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, dtype=jnp.bfloat16)
        x = conv(64, (7, 7), (2, 2))(x)
        x = nn.max_pool(x, (3, 3), (2, 2), padding="SAME")
        for stage, blocks in enumerate(STAGE_BLOCKS[self.depth]):
            width = 64 * 2**stage
            for index in range(blocks):
                strides = (2, 2) if stage and not index else (1, 1)
                y = nn.relu(norm()(x))
                shortcut = x if index else conv(4 * width, (1, 1), strides)(y)
                y = nn.relu(norm()(conv(width, (1, 1))(y)))
                y = nn.relu(norm()(conv(width, (3, 3), strides)(y)))
                x = shortcut + conv(4 * width, (1, 1))(y)
        end = nn.relu(norm()(x)).mean(axis=(1, 2)).astype(jnp.float32)
        return nn.Dense(self.num_classes)(end), {"end": end}


if __name__ == "__main__":
    import json
    import sys

    from redundancy.preflight import child

    with open(sys.argv[1]) as file:
        given = json.load(file)
    child.main(PlainResNet(given["config"]["depth"], given["classes"]))
