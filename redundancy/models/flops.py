"""What a network costs by its definition: the multiply-adds of one image. Nothing is computed.

Tracing a deep network takes a second, so what was found of one is remembered.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np


def _is_function(value) -> bool:
    """Whether it is a Jaxpr or a ClosedJaxpr, whose classes have no public name that all versions of JAX share."""
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def _equations(jaxpr) -> Iterator:
    """All equations, those of the functions inside too."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_function):
            if _is_function(value):
                yield from _equations(getattr(value, "jaxpr", value))


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
    return _equations(jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False)[0])(variables, image).jaxpr)


def once(function):
    """`function` of a network, and of values that tell the rest; what it returned for the same ones before is returned."""
    known = {}

    @functools.wraps(function)
    def of_network(model, *rest):
        key = (repr(model), *rest)  # all fields of the network
        if key not in known:
            known[key] = function(model, *rest)
        return known[key]

    return of_network


@once
def multiply_adds(model, image_shape: tuple[int, int, int]) -> int:
    """Multiply-adds of the convolutions and the classifier in one forward pass of one image.

    This is what papers count ("FLOPs" of He et al. 2016a, table 1). A training step is customarily taken as three
    forward passes of two floating-point operations a multiply-add.

    Args:
      model: a ResNet, in whatever form it is computed.
      image_shape: (height, width, channels).
    """
    model = model.clone(formulation="xla")  # whose own operations are the definition's
    return sum(_multiply_adds(eqn) for eqn in _forward_pass(model, image_shape))


@once
def uses_xla_convolutions(model, image_shape: tuple[int, int, int]) -> bool:
    """Whether a forward pass, in the form that `model` is computed in, has convolutions of XLA's own.

    Args:
      model: a ResNet.
      image_shape: (height, width, channels).
    """
    return any(eqn.primitive.name == "conv_general_dilated" for eqn in _forward_pass(model, image_shape))
