"""A convolution that is computed differently for a batch of trials than for one trial: rules for `jax.vmap` and gradients.

XLA computes the convolution of one trial. Under `vmap` over trials, each with its own kernel, the three functions of a
convolution (output, gradient of the input, gradient of the kernel) receive the whole pack, `[T, …]`. The implementation for
packs is an argument, so the rules know nothing of GPUs.
"""

import functools
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp

from redundancy.models.shards import by_shards


class Packs(Protocol):
    """An implementation for packs; hashable. Methods return None if XLA must compute; see calls.Kernels for their arguments."""

    def forward(self, x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array | None: ...

    def input_gradient(
        self, dy: jax.Array, kernel: jax.Array, size: tuple[int, int], stride: int
    ) -> jax.Array | None: ...

    def kernel_gradient(self, x: jax.Array, dy: jax.Array, taps: int, stride: int) -> jax.Array | None: ...


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolution(x: jax.Array, kernel: jax.Array, stride: int, packs: Packs) -> jax.Array:
    """Convolution with padding "SAME" in the type of `x`.

    Args:
      x: `[B, H, W, C]`.
      kernel: `[k, k, C, D]`, of x's type or wider; its gradient has the kernel's type and, in a pack, is not rounded to x's.
      stride: down and across.
      packs: computes several trials at once.

    Returns:
      `[B, ceil(H / stride), ceil(W / stride), D]` in the type of `x`.
    """
    return _functions(stride, kernel.shape[0], x.shape[1:3], packs)[0](x, kernel.astype(x.dtype))


def _forward(x, kernel, stride, packs):
    return convolution(x, kernel, stride, packs), (x, kernel)


def _backward(stride, packs, saved, dy):
    x, kernel = saved
    _, by_input, by_kernel = _functions(stride, kernel.shape[0], x.shape[1:3], packs)
    return by_input(dy, kernel.astype(x.dtype)), by_kernel(x, dy).astype(kernel.dtype)


convolution.defvjp(_forward, _backward)


def _xla(x, kernel, stride):
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@functools.cache
def _functions(stride: int, taps: int, size: tuple[int, int], packs: Packs) -> tuple[Callable, Callable, Callable]:
    """For one trial: output from (x, kernel), gradient of the input from (dy, kernel), gradient of the kernel from (x, dy)."""

    def output(x, kernel):
        return _xla(x, kernel, stride)

    def by_input(dy, kernel):
        x = jax.ShapeDtypeStruct((dy.shape[0], *size, kernel.shape[2]), dy.dtype)
        return jax.linear_transpose(lambda x: _xla(x, kernel, stride), x)(dy)[0]

    def by_kernel(x, dy):
        kernel = jax.ShapeDtypeStruct((taps, taps, x.shape[3], dy.shape[3]), x.dtype)
        (rounded,) = jax.linear_transpose(lambda kernel: _xla(x, kernel, stride), kernel)(dy)
        return rounded.astype(jnp.float32)

    return (
        _of_trials(output, functools.partial(packs.forward, stride=stride)),
        _of_trials(by_input, functools.partial(packs.input_gradient, size=size, stride=stride)),
        _of_trials(by_kernel, functools.partial(packs.kernel_gradient, taps=taps, stride=stride), sums=True),
    )


def _of_trials(one: Callable, pack: Callable, sums: bool = False) -> Callable:
    """Wraps `one` so that under `vmap` it calls `pack`, or the `vmap` of `one` if `pack` returns None.

    Args:
      one: function of a batch and of a kernel or, with `sums`, another batch.
      pack: the same function for arrays with a leading axis of trials.
      sums: whether the result is a sum over images.
    """

    def of_pack(batch, other):
        found = pack(batch, other)
        return jax.vmap(one)(batch, other) if found is None else found

    @jax.custom_batching.custom_vmap
    def trials(batch, other):
        return by_shards(of_pack, batch, other, sums, axis=1)

    @trials.def_vmap
    def _(count, batched, *arrays):
        arrays = [_each(count, *given) for given in zip(batched, arrays, strict=True)]
        result = trials(*(array.reshape(-1, *array.shape[2:]) for array in arrays))
        return result.reshape(count, -1, *result.shape[1:]), True

    @jax.custom_batching.custom_vmap
    def single(batch, other):
        return one(batch, other)

    @single.def_vmap
    def _(count, batched, batch, other):
        if not sums and not batched[1]:  # not several networks, but more images of one
            result = single(batch.reshape(-1, *batch.shape[2:]), other)
            return result.reshape(count, -1, *result.shape[1:]), True
        return trials(_each(count, batched[0], batch), _each(count, batched[1], other)), True

    return single


def _each(count: int, batched: bool, array: jax.Array) -> jax.Array:
    """`array`, repeated `count` times along a new first axis unless it has one."""
    return array if batched else jnp.broadcast_to(array, (count, *array.shape))
