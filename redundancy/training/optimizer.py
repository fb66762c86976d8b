"""SGD with momentum, coupled L2 on kernels, linear warm-up and cosine decay."""

import jax
import jax.numpy as jnp
import optax


def learning_rate(step: jax.Array, steps: jax.Array | int, peak: float, warmup_steps: int) -> jax.Array:
    """Learning rate of a step: linear from 0 to `peak` over the warm-up, then a half cosine down to 0.

    Args:
      step: steps taken before this one, from 0.
      steps: steps in all.
      peak: highest rate, reached after `warmup_steps`.
      warmup_steps: steps of warm-up; cut to `steps` where a training is shorter.
    """
    warmup = jnp.minimum(warmup_steps, steps)
    rising = step / jnp.maximum(warmup, 1)
    done = (step - warmup) / jnp.maximum(steps - warmup, 1)
    falling = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(done, 0.0, 1.0)))
    return peak * jnp.where(step < warmup, rising, falling)


def make_optimizer(config) -> optax.GradientTransformation:
    """Gradient -> direction; the caller multiplies by minus the learning rate.

    The L2 penalty's gradient is added before momentum (coupled, not AdamW's decoupled decay), and only for
    arrays of two or more axes: no bias and no BatchNorm parameter (Goyal et al. 2017, section 5.1).
    """

    def kernels(params):
        return jax.tree.map(lambda p: p.ndim > 1, params)

    return optax.chain(
        optax.add_decayed_weights(config.l2, mask=kernels),
        optax.trace(decay=config.momentum, nesterov=config.nesterov),
    )
