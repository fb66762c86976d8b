"""ResNet v2 (He et al. 2016b: pre-activation, identity mappings) in its CIFAR and ImageNet forms.

Parameters have the same names and shapes in every formulation, so checkpoints can be used on any platform.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from redundancy.models import gpu
from redundancy.models.batch_norm import BatchNorm
from redundancy.models.convolution import Conv, formulation_for
from redundancy.runtime.errors import ConfigError

STAGE_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_EXPANSION = 4  # a bottleneck has this many times as many output channels as its 3 x 3 convolution

# He et al. 2015, section 2.2: normal with variance 2 / fan. "fan_in" preserves the scale of activations; "fan_out", which most
# ResNet implementations use, preserves that of gradients.
KERNEL_INITS = {
    "he_fan_in": nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal"),
    "he_fan_out": nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal"),
}
CLASSIFIER_INITS = {
    "lecun": nn.initializers.lecun_normal(),
    "normal_0.01": nn.initializers.normal(0.01),  # Goyal et al. 2017, section 5.1
    "zeros": nn.initializers.zeros,
}


class BasicBlock(nn.Module):
    """Pre-activation residual block: two 3 x 3 convolutions, each after BatchNorm and ReLU."""

    width: int
    stride: int
    norm: Any
    conv: Any
    last_init: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        stride = (self.stride, self.stride)
        y = self.norm(name="norm1")(x, train)
        shortcut = x
        if self.stride != 1 or x.shape[-1] != self.width:
            shortcut = self.conv(self.width, (1, 1), stride, name="shortcut")(y)
        y = self.conv(self.width, (3, 3), stride, name="conv1")(y)
        y = self.norm(name="norm2")(y, train)
        return shortcut + self.conv(self.width, (3, 3), kernel_init=self.last_init, name="conv2")(y)


class Bottleneck(nn.Module):
    """Pre-activation bottleneck: convolutions of 1 x 1, 3 x 3 (with the stride) and 1 x 1, to 4 x `width` channels."""

    width: int
    stride: int
    norm: Any
    conv: Any
    last_init: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        stride, channels = (self.stride, self.stride), _EXPANSION * self.width
        y = self.norm(name="norm1")(x, train)
        shortcut = x
        if self.stride != 1 or x.shape[-1] != channels:
            shortcut = self.conv(channels, (1, 1), stride, name="shortcut")(y)
        y = self.conv(self.width, (1, 1), name="conv1")(y)
        y = self.norm(name="norm2")(y, train)
        y = self.conv(self.width, (3, 3), stride, name="conv2")(y)
        y = self.norm(name="norm3")(y, train)
        return shortcut + self.conv(channels, (1, 1), kernel_init=self.last_init, name="conv3")(y)


def max_pool(x: jax.Array) -> jax.Array:
    """Maximum over 3 x 3 pixels, stride 2: `[B, H, W, C]` to `[B, ceil(H/2), ceil(W/2), C]`."""
    return nn.max_pool(x, (3, 3), (2, 2), padding="SAME")


class ResNet(nn.Module):
    """ResNet v2 with its three pooled layers (the paper's section 4.2).

    Parameters, BatchNorm's statistics, pooled layers and logits are float32; convolutions compute in `dtype`.

    Attributes:
      stage_blocks: blocks of each stage; every stage but the first halves height and width.
      widths: channels of each stage.
      num_classes: number of logits.
      bottleneck: whether blocks are bottlenecks, whose output has 4 x the width.
      imagenet_stem: whether the stem is a 7 x 7 convolution of stride 2 and max-pooling, not a 3 x 3 convolution.
      bn_group_size, bn_momentum: see BatchNorm.
      dtype: type that convolutions compute in.
      kernel_init, classifier_init, classifier_bias, zero_init_residual: see config/model.py.
      formulation: formulation of convolutions and BatchNorm, see convolution.py.
      packs: for the formulation "packed", the kernels that compute several trials at once.
    """

    stage_blocks: tuple[int, ...]
    widths: tuple[int, ...]
    num_classes: int
    bottleneck: bool = False
    imagenet_stem: bool = False
    bn_group_size: int = 0
    bn_momentum: float = 0.9
    dtype: jnp.dtype = jnp.float32
    kernel_init: str = "he_fan_out"
    classifier_init: str = "lecun"
    classifier_bias: bool = True
    zero_init_residual: bool = False
    formulation: str = "xla"
    packs: gpu.Packs | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Logits and pooled layers of a batch of images.

        Args:
          x: normalised images, `[B, H, W, C]`.
          train: whether BatchNorm uses the batch (and updates its running statistics).

        Returns:
          logits `[B, num_classes]` float32, and the layers, each `[B, D]` float32: means over pixels of the output of
          the first convolution ("start"), of the second stage ("middle"), and of the last BatchNorm and ReLU ("end"),
          which is the input of the classifier.
        """
        norm = functools.partial(
            BatchNorm,
            group_size=self.bn_group_size,
            momentum=self.bn_momentum,
            dtype=self.dtype,
            relu=True,
            formulation=self.formulation,
        )
        init = KERNEL_INITS[self.kernel_init]
        conv = functools.partial(
            Conv, dtype=self.dtype, kernel_init=init, formulation=self.formulation, packs=self.packs
        )
        last_init = nn.initializers.zeros if self.zero_init_residual else init
        block = Bottleneck if self.bottleneck else BasicBlock

        def pool(y):
            return y.astype(jnp.float32).mean(axis=(1, 2))

        x = x.astype(self.dtype)
        if self.imagenet_stem:
            x = conv(self.widths[0], (7, 7), (2, 2), name="conv0")(x)
        else:
            x = conv(self.widths[0], (3, 3), name="conv0")(x)
        layers = {"start": pool(x)}
        if self.imagenet_stem:
            x = max_pool(x)
        for stage, (width, blocks) in enumerate(zip(self.widths, self.stage_blocks, strict=True)):
            for index in range(blocks):
                stride = 2 if stage > 0 and index == 0 else 1
                name = f"stage{stage + 1}_block{index + 1}"
                x = block(width, stride, norm, conv, last_init, name=name)(x, train)
            if stage == 1:
                layers["middle"] = pool(x)
        layers["end"] = pool(norm(name="norm")(x, train))
        logits = nn.Dense(
            self.num_classes,
            use_bias=self.classifier_bias,
            dtype=jnp.float32,
            kernel_init=CLASSIFIER_INITS[self.classifier_init],
            name="classifier",
        )(layers["end"])
        return logits, layers


def make_model(
    config, num_classes: int, platform: str = "tpu", device: jax.Device | None = None, batched: bool = False
) -> ResNet:
    """The network that a resolved config asks for.

    Args:
      config: resolved config.
      num_classes: number of logits.
      platform: platform that computes it: "cpu", "gpu" or "tpu".
      device: device that computes it; needed on "gpu", whose kernels depend on the kind of card.
      batched: whether several trials are computed at once, under `jax.vmap`.

    Raises:
      ConfigError: the platform or the card has no kernels for config.formulation.
    """
    if {"cpu": "cpu", "packed": "gpu"}.get(config.formulation, platform) != platform:
        raise ConfigError(
            f"config.formulation is {config.formulation!r}, but the devices are of platform {platform!r}, which has no such "
            "kernels; set it to 'auto' or 'xla'."
        )
    packs = None
    if platform == "gpu" and (config.formulation == "packed" or (config.formulation == "auto" and batched)):
        packs = gpu.packs_for(device, needed=config.formulation == "packed")
    formulation = "packed" if packs is not None else config.formulation
    imagenet = config.form == "imagenet"
    return ResNet(
        stage_blocks=STAGE_BLOCKS[config.depth] if imagenet else ((config.depth - 2) // 6,) * 3,
        widths=tuple(config.widths),
        num_classes=num_classes,
        bottleneck=imagenet and config.depth >= 50,
        imagenet_stem=imagenet,
        bn_group_size=config.bn_group_size,
        bn_momentum=config.bn_momentum,
        dtype=jnp.dtype(config.dtype),
        kernel_init=config.kernel_init,
        classifier_init=config.classifier_init,
        classifier_bias=config.classifier_bias,
        zero_init_residual=config.zero_init_residual,
        formulation=formulation_for(platform) if formulation == "auto" else formulation,
        packs=packs,
    )
