"""Counts the multiply-adds of a network for one image from its definition, without running it.

Tracing a deep network takes a second, so results are cached.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np


def _is_function(value) -> bool:
    """Whether `value` is a Jaxpr or a ClosedJaxpr; their classes have no public name in all versions of JAX."""
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def equations(jaxpr) -> Iterator:
    """All equations of a Jaxpr, including those of inner functions."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_function):
            if _is_function(value):
                yield from equations(getattr(value, "jaxpr", value))


def _multiply_adds(eqn) -> int:
    if eqn.primitive.name == "conv_general_dilated":
        kernel = eqn.invars[1].aval.shape
        outputs = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
        return int(np.prod(eqn.outvars[0].aval.shape) * (np.prod(kernel) // outputs))
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        left = eqn.invars[0].aval.shape
        return int(np.prod(eqn.outvars[0].aval.shape) * np.prod([left[axis] for axis in contracted]))
    return 0


def _forward_pass(model, image_shape: tuple[int, int, int]) -> Iterator:
    """The equations of one image's forward pass."""
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)
    return equations(jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False)[0])(variables, image).jaxpr)


def once(function):
    """Caches a function of a network and hashable values; networks themselves cannot be hashed."""
    known = {}

    @functools.wraps(function)
    def of_network(model, *rest):
        key = (repr(model), *rest)  # the repr shows all fields of the network
        if key not in known:
            known[key] = function(model, *rest)
        return known[key]

    return of_network


@once
def multiply_adds(model, image_shape: tuple[int, int, int]) -> int:
    """Multiply-adds of the convolutions and the classifier in one forward pass of one image.

    Papers report this number ("FLOPs" in He et al. 2016a, table 1). A training step is usually counted as three forward
    passes, with two floating-point operations for each multiply-add.

    Args:
      model: a ResNet of any formulation.
      image_shape: (height, width, channels).
    """
    model = model.clone(formulation="xla")  # the others have operations beyond the definition
    return sum(_multiply_adds(eqn) for eqn in _forward_pass(model, image_shape))


@once
def uses_xla_convolutions(model, image_shape: tuple[int, int, int]) -> bool:
    """Whether a forward pass in the model's formulation contains XLA's own convolutions.

    Args:
      model: a ResNet.
      image_shape: (height, width, channels).
    """
    return any(eqn.primitive.name == "conv_general_dilated" for eqn in _forward_pass(model, image_shape))
