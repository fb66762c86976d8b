"""SGD with momentum and coupled L2 on kernels, without the learning rate, see learning_rate.py."""

import jax
import optax


def make_optimizer(config) -> optax.GradientTransformation:
    """Transforms a gradient into a direction, which the caller multiplies by minus the learning rate.

    The L2 penalty's gradient is added before momentum (coupled, not AdamW's decoupled decay), and only for
    arrays with two or more axes, so not for biases and BatchNorm parameters (Goyal et al. 2017, section 5.1).
    """

    def kernels(params):
        return jax.tree.map(lambda p: p.ndim > 1, params)

    return optax.chain(
        optax.add_decayed_weights(config.l2, mask=kernels),
        optax.trace(decay=config.momentum, nesterov=config.nesterov),
    )
