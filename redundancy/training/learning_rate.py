"""The learning rate schedule: linear warm-up, then cosine decay."""

import jax
import jax.numpy as jnp


def peak_learning_rate(config) -> float:
    """Peak learning rate, proportional to the batch size (Goyal et al. 2017, section 2.1)."""
    return config.lr_per_256 * config.batch_size / 256


def learning_rate(step: jax.Array, steps: jax.Array | int, peak: float, warmup_steps: jax.Array | int) -> jax.Array:
    """Learning rate of a step: linear from 0 to `peak` over the warm-up, then a half cosine down to 0.

    Args:
      step: steps taken before this one, from 0.
      steps: total number of steps.
      peak: highest rate, reached after `warmup_steps`.
      warmup_steps: steps of warm-up; limited to `steps` in a shorter training.
    """
    warmup = jnp.minimum(warmup_steps, steps)
    rising = step / jnp.maximum(warmup, 1)
    done = (step - warmup) / jnp.maximum(steps - warmup, 1)
    falling = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(done, 0.0, 1.0)))
    return peak * jnp.where(step < warmup, rising, falling)
