"""ResNet v2 in its CIFAR form (He et al. 2016b): depth 6n+2, three stages, identity mappings."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from redundancy.models.batch_norm import BatchNorm


class Block(nn.Module):
    """Pre-activation residual block: two 3 x 3 convolutions, each after BatchNorm and ReLU."""

    width: int
    stride: int
    norm: type[nn.Module]
    conv: type[nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = nn.relu(self.norm(name="norm1")(x, train))
        shortcut = x
        if self.stride != 1 or x.shape[-1] != self.width:
            shortcut = self.conv(self.width, (1, 1), (self.stride, self.stride), name="shortcut")(y)
        y = self.conv(self.width, (3, 3), (self.stride, self.stride), name="conv1")(y)
        y = nn.relu(self.norm(name="norm2")(y, train))
        return shortcut + self.conv(self.width, (3, 3), name="conv2")(y)


class ResNet(nn.Module):
    """ResNet v2 of depth 6n+2 with its three pooled layers (the paper's section 4.2).

    Parameters, BatchNorm's statistics, pooled layers and logits are float32; convolutions compute in `dtype`.

    Attributes:
      depth: 6n+2; n blocks in each of the three stages.
      widths: channels of the stages.
      num_classes: logits.
      bn_group_size, bn_momentum: see BatchNorm.
      dtype: type that convolutions compute in.
    """

    depth: int
    widths: tuple[int, int, int]
    num_classes: int
    bn_group_size: int = 0
    bn_momentum: float = 0.9
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Logits and pooled layers of a batch of images.

        Args:
          x: normalised images, `[B, H, W, C]`.
          train: whether BatchNorm uses the batch (and updates its running statistics).

        Returns:
          logits `[B, num_classes]` float32, and the layers, each `[B, D]` float32: "start" is the mean over
          pixels of the first convolution, "middle" of the second stage, "end" of the last BatchNorm and ReLU,
          which the logits are made of.
        """
        norm = functools.partial(BatchNorm, group_size=self.bn_group_size, momentum=self.bn_momentum, dtype=self.dtype)
        conv = functools.partial(
            nn.Conv, use_bias=False, dtype=self.dtype, kernel_init=nn.initializers.he_normal(), padding="SAME"
        )

        def pool(y):
            return y.astype(jnp.float32).mean(axis=(1, 2))

        x = conv(self.widths[0], (3, 3), name="conv0")(x.astype(self.dtype))
        layers = {"start": pool(x)}
        for stage, width in enumerate(self.widths):
            for index in range((self.depth - 2) // 6):
                stride = 2 if stage > 0 and index == 0 else 1
                x = Block(width, stride, norm, conv, name=f"stage{stage + 1}_block{index + 1}")(x, train)
            if stage == 1:
                layers["middle"] = pool(x)
        layers["end"] = pool(nn.relu(norm(name="norm")(x, train)))
        logits = nn.Dense(self.num_classes, dtype=jnp.float32, name="classifier")(layers["end"])
        return logits, layers


def make_model(config, num_classes: int) -> ResNet:
    """The network that a resolved config asks for."""
    return ResNet(
        depth=config.depth,
        widths=tuple(config.widths),
        num_classes=num_classes,
        bn_group_size=config.bn_group_size,
        bn_momentum=config.bn_momentum,
        dtype=jnp.dtype(config.dtype),
    )
