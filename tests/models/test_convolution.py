"""Both forms of convolution compute what XLA's convolution computes, and so do their gradients."""

import concurrent.futures

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from redundancy import config as config_lib
from redundancy.models import convolution, make_model
from redundancy.models.convolution import Conv, convolve, formulation_for
from redundancy.models.cpu import calls, handler
from redundancy.runtime.errors import ConfigError

# batch, height, width, channels in, channels out, kernel, stride
SHAPES = [
    (8, 8, 8, 32, 32, 3, 1),
    (3, 16, 16, 32, 48, 3, 1),
    (70, 7, 5, 16, 16, 3, 1),  # more images than parts
    (2, 32, 33, 16, 16, 3, 1),  # rows of more than a block of pixels, the last one of them not whole
    (8, 3, 14, 8, 4, 3, 1),
    (33, 1, 1, 32, 16, 3, 1),
    (2, 8, 8, 3, 16, 3, 1),  # the gradient by so few channels is XLA's
    (2, 8, 8, 1, 4, 3, 1),
    (2, 8, 8, 40, 24, 3, 2),
    (2, 9, 7, 32, 32, 3, 2),
    (3, 1, 2, 16, 16, 3, 2),
    (2, 8, 8, 16, 32, 1, 1),
    (2, 9, 8, 16, 32, 1, 2),  # no tap falls on every other pixel
    (2, 21, 16, 3, 16, 7, 2),
    (2, 9, 11, 16, 16, 5, 3),
    (2, 8, 8, 6, 33, 3, 1),  # all XLA's
    (2, 5, 4, 6, 33, 1, 2),  # a product
]


def _arrays(batch, height, width, channels, features, size, stride, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, height, width, channels), np.float32)
    kernel = rng.standard_normal((size, size, channels, features), np.float32) / (size * channels**0.5)
    dy = rng.standard_normal((batch, -(-height // stride), -(-width // stride), features), np.float32)
    return jnp.asarray(x), jnp.asarray(kernel), jnp.asarray(dy)


def _oracle(x, kernel, stride):
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
    )


def _close(found, wanted, tolerance=3e-5):
    assert found.shape == wanted.shape
    wanted = np.asarray(wanted, np.float32)
    np.testing.assert_allclose(np.asarray(found, np.float32), wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


def _with_gradients(function, x, kernel, dy):
    y, pull_back = jax.vjp(function, x, kernel)
    return y, *pull_back(dy.astype(y.dtype))


NARROW = [
    (2, 11, 13, 16, 32, 3, 1),
    (2, 11, 13, 3, 8, 3, 2),
    (3, 5, 6, 12, 4, 3, 2),
]  # for processors of short registers


@pytest.mark.parametrize(
    ("shape", "wide"), [*((shape, True) for shape in SHAPES), *((shape, False) for shape in NARROW)], ids=str
)
def test_output_and_both_gradients_equal_those_of_xla(shape, wide, monkeypatch):
    arrays, stride = _arrays(*shape), shape[-1]
    if not wide:
        machine, _ = calls._machine()
        monkeypatch.setattr(calls, "_machine", lambda: (machine, False))
    found = jax.jit(lambda *a: _with_gradients(lambda x, k: convolve(x, k, (stride, stride), "cpu"), *a))(*arrays)
    wanted = _with_gradients(lambda x, k: _oracle(x, k, stride), *arrays)
    for ours, theirs in zip(found, wanted, strict=True):
        _close(ours, theirs)


def test_bfloat16_is_as_exact_as_xla():
    x, kernel, dy = (a.astype(jnp.bfloat16) for a in _arrays(*SHAPES[0]))
    exact = _with_gradients(lambda x, k: _oracle(x, k, 1), *(a.astype(jnp.float32) for a in (x, kernel, dy)))
    found = jax.jit(lambda *a: _with_gradients(lambda x, k: convolve(x, k, formulation="cpu"), *a))(x, kernel, dy)
    for ours, theirs in zip(found, exact, strict=True):
        assert ours.dtype == jnp.bfloat16
        _close(ours, theirs, 2.0**-8)


def test_a_pack_of_trials_under_vmap_equals_single_trials():
    x, kernel, dy = (jnp.stack(pair) for pair in zip(*(_arrays(*SHAPES[2], seed=s) for s in (1, 2)), strict=True))

    @jax.jit
    def of_one(x, kernel, dy):
        return _with_gradients(lambda x, k: convolve(x, k, formulation="cpu"), x, kernel, dy)

    pack = jax.jit(jax.vmap(of_one))(x, kernel, dy)
    for trial in range(2):
        for ours, theirs in zip(pack, of_one(x[trial], kernel[trial], dy[trial]), strict=True):
            _close(ours[trial], theirs)


def test_many_calls_at_once_do_not_wait_for_each_other_and_give_the_same_bits():
    x, kernel, dy = _arrays(64, 8, 8, 16, 16, 3, 1)

    @jax.jit
    def many(x, kernel, dy):
        return [_with_gradients(lambda x, k: convolve(x, k, formulation="cpu"), x + i, kernel, dy) for i in range(12)]

    first = many(x, kernel, dy)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for again in pool.map(lambda _: many(x, kernel, dy), range(40)):
            for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("version", [(0, 2), (0, 6), (1, 3), None])
def test_an_unknown_interface_is_left_alone(tmp_path, monkeypatch, version):
    x, kernel, _ = _arrays(*SHAPES[0])

    def program():
        return str(jax.make_jaxpr(lambda x, k: convolve(x, k, formulation="cpu"))(x, kernel))

    assert "conv_general_dilated" not in program()
    if version:
        header = tmp_path / "xla" / "ffi" / "api" / "c_api.h"
        header.parent.mkdir(parents=True)
        header.write_text("#define XLA_FFI_API_MAJOR {}\n#define XLA_FFI_API_MINOR {}\n".format(*version))
    monkeypatch.setattr(jax.ffi, "include_dir", lambda: str(tmp_path))
    monkeypatch.setattr(calls, "interface_version", handler.interface_version.__wrapped__)
    assert "conv_general_dilated" in program()


def test_large_kernels_are_left_to_xla():
    x, kernel = jnp.zeros((1, 2, 2, 512)), jnp.zeros((3, 3, 512, 512))
    assert "conv_general_dilated" in str(jax.make_jaxpr(lambda x, k: convolve(x, k, formulation="cpu"))(x, kernel))


def test_parameters_are_those_of_flax_in_every_form():
    x, _, _ = _arrays(*SHAPES[0])
    init = nn.initializers.he_normal()
    reference = nn.Conv(32, (3, 3), use_bias=False, kernel_init=init)
    variables = reference.init(jax.random.key(0), x)
    for form in convolution.FORMULATIONS:
        ours = Conv(32, (3, 3), kernel_init=init, formulation=form)
        np.testing.assert_array_equal(
            jax.jit(ours.init)(jax.random.key(0), x)["params"]["kernel"], variables["params"]["kernel"]
        )
        _close(jax.jit(ours.apply)(variables, x), reference.apply(variables, x))


def test_platforms_and_unknown_formulations():
    assert [formulation_for(platform) for platform in ("cpu", "gpu", "tpu")] == ["cpu", "xla", "xla"]
    x, kernel, _ = _arrays(*SHAPES[0])
    with pytest.raises(ValueError, match="formulation is 'winograd'; wanted one of xla, cpu"):
        convolve(x, kernel, formulation="winograd")


def test_kernels_for_cpus_are_refused_elsewhere():
    config = config_lib.resolve({"formulation": "cpu"})
    assert make_model(config, 10, "cpu").formulation == "cpu"
    with pytest.raises(ConfigError, match=r"config\.formulation is 'cpu', but the devices are of platform 'gpu'"):
        make_model(config, 10, "gpu")
