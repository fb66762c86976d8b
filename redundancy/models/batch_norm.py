"""BatchNorm with statistics over a fixed number of images, independent of batch size and devices.

Goyal et al. 2017 (section 4) treat the number of images per statistic as a separate hyper-parameter.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp


class BatchNorm(nn.Module):
    """Normalises each channel over groups of images.

    Statistics and normalisation are float32; the output has `dtype`. In training the batch is divided into
    consecutive groups of `group_size` images, each normalised by its own mean and variance; the running
    statistics are updated with the mean over groups. Evaluation uses the running statistics.

    Attributes:
      group_size: images in a group; 0 is the whole batch. Must divide the batch.
      momentum: share of the running statistics kept at each training step.
      epsilon: added to the variance.
      dtype: type of the output.
      relu: whether a ReLU follows.
      formulation: "xla", or "cpu", which is faster on CPUs; both give the same result up to rounding.
    """

    group_size: int = 0
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32
    relu: bool = False
    formulation: str = "xla"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalises x `[B, H, W, C]`; returns the same shape."""
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        if not train:
            factor = scale * jax.lax.rsqrt(running_var.value + self.epsilon)
            return self._out(x * factor + (bias - running_mean.value * factor))

        size = self.group_size or x.shape[0]
        wide = x.astype(jnp.float32)
        if self.formulation == "cpu":
            wide = wide.reshape(-1, size, *x.shape[1:])
        mean = self._group_means(wide, size)
        var = jnp.maximum(self._group_means(jnp.square(wide), size) - jnp.square(mean), 0.0)
        if not self.is_initializing():
            keep = self.momentum
            running_mean.value = keep * running_mean.value + (1 - keep) * mean.mean(axis=0)
            running_var.value = keep * running_var.value + (1 - keep) * var.mean(axis=0)
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        offset = bias - mean * factor
        if self.formulation == "cpu":
            return self._out((wide * factor[:, None, None, None] + offset[:, None, None, None]).reshape(x.shape))
        return self._out(wide * self._of_images(factor, size) + self._of_images(offset, size))

    def _group_means(self, x: jax.Array, size: int) -> jax.Array:
        """Means of each group's pixels, `[B / size, C]`, of `[B, H, W, C]` or, on CPU, `[B / size, size, H, W, C]`."""
        if self.formulation == "cpu":
            return x.mean(axis=(1, 2, 3))
        # Reduces each image to one row and groups only the rows: reshaping the large array would prevent compilers for
        # accelerators from fusing these sums, and those of the gradient, with the neighbouring convolutions.
        rows = x.mean(axis=(1, 2))
        return rows.reshape(-1, size, x.shape[-1]).mean(axis=1)

    @staticmethod
    def _of_images(of_groups: jax.Array, size: int) -> jax.Array:
        """Repeats each group's values for its images: `[B / size, C]` to `[B, 1, 1, C]`."""
        groups, channels = of_groups.shape
        rows = jnp.broadcast_to(of_groups[:, None], (groups, size, channels))
        return rows.reshape(groups * size, 1, 1, channels)

    def _out(self, y: jax.Array) -> jax.Array:
        return (nn.relu(y) if self.relu else y).astype(self.dtype)
