"""Schedule, penalty, BatchNorm and network against oracles."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from redundancy import config as config_lib
from redundancy.models import make_model
from redundancy.models.batch_norm import BatchNorm
from redundancy.training.learning_rate import learning_rate
from redundancy.training.optimizer import make_optimizer


@pytest.mark.parametrize(("steps", "warmup"), [(100, 10), (100, 0), (7, 3), (50, 50)])
def test_schedule_equals_optax(steps, warmup):
    oracle = optax.warmup_cosine_decay_schedule(0.0, 0.4, warmup, steps) if 0 < warmup < steps else None
    rates = np.array([learning_rate(jnp.int32(step), steps, 0.4, warmup) for step in range(steps + 1)])
    if oracle is not None:
        np.testing.assert_allclose(rates, [oracle(step) for step in range(steps + 1)], atol=1e-7)
    assert rates.max() == pytest.approx(0.4)
    if warmup == 0:
        assert rates[0] == pytest.approx(0.4)
        assert rates[-1] == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_the_papers_formula_with_l2_on_kernels_alone(nesterov):
    config = config_lib.resolve({"momentum": 0.9, "nesterov": nesterov, "l2": 0.01})
    params = {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([3.0]), "scale": jnp.array([0.5])}
    grads = {"kernel": jnp.array([[0.1, 0.2]]), "bias": jnp.array([0.3]), "scale": jnp.array([0.4])}
    optimizer = make_optimizer(config)
    state = optimizer.init(params)
    speed = {name: np.zeros_like(value) for name, value in params.items()}
    expected = {name: np.asarray(value) for name, value in params.items()}
    for _ in range(3):
        direction, state = optimizer.update(grads, state, params)
        params = jax.tree.map(lambda p, d: p - 0.1 * d, params, direction)
        for name in expected:
            gradient = np.asarray(grads[name]) + (0.01 * expected[name] if name == "kernel" else 0)
            speed[name] = 0.9 * speed[name] + gradient
            expected[name] = expected[name] - 0.1 * (gradient + 0.9 * speed[name] if nesterov else speed[name])
    for name in expected:
        np.testing.assert_allclose(params[name], expected[name], rtol=1e-6)


def test_batch_norm_of_the_whole_batch_equals_flax():
    x = jax.random.normal(jax.random.key(0), (12, 5, 4, 3)) * 3 + 1
    ours, theirs = BatchNorm(momentum=0.9), nn.BatchNorm(use_running_average=False, momentum=0.9)
    variables = ours.init(jax.random.key(1), x, train=False)
    out, updated = ours.apply(variables, x, train=True, mutable=["batch_stats"])
    expected, stats = theirs.apply(theirs.init(jax.random.key(1), x), x, mutable=["batch_stats"])
    np.testing.assert_allclose(out, expected, atol=1e-5)
    for name in ("mean", "var"):
        np.testing.assert_allclose(updated["batch_stats"][name], stats["batch_stats"][name], rtol=1e-5, atol=1e-6)


def test_batch_norm_groups_are_batches_of_their_own():
    x = jax.random.normal(jax.random.key(0), (12, 5, 4, 3)) * 3 + 1
    grouped, alone = BatchNorm(group_size=4), BatchNorm()
    variables = grouped.init(jax.random.key(1), x, train=False)
    out, updated = grouped.apply(variables, x, train=True, mutable=["batch_stats"])
    parts = [alone.apply(variables, part, train=True, mutable=["batch_stats"]) for part in jnp.split(x, 3)]
    np.testing.assert_allclose(out, jnp.concatenate([part for part, _ in parts]), atol=1e-6)
    means = np.mean([part["batch_stats"]["mean"] for _, part in parts], axis=0)
    np.testing.assert_allclose(updated["batch_stats"]["mean"], means, rtol=1e-6)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(out, alone.apply(variables, x, train=True, mutable=["batch_stats"])[0], atol=1e-3)


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_parameter_counts_are_the_published_ones(depth, millions):
    # He et al. 2016a, table 6.
    model = make_model(config_lib.resolve({"depth": depth}), 10)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    assert count / 1e6 == pytest.approx(millions, rel=0.03)


def test_pooled_layers_and_logits_have_the_papers_sizes():
    model = make_model(config_lib.resolve({"depth": 14, "dtype": "bfloat16"}), 7)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), train=False)
    logits, layers = model.apply(variables, jnp.ones((5, 16, 16, 3)), train=False)
    assert {name: layer.shape for name, layer in layers.items()} == {
        "start": (5, 16),
        "middle": (5, 32),
        "end": (5, 64),
    }
    assert logits.shape == (5, 7)
    assert {array.dtype for array in (logits, *layers.values())} == {jnp.dtype("float32")}
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    kernel, bias = (variables["params"]["classifier"][name] for name in ("kernel", "bias"))
    np.testing.assert_allclose(logits, layers["end"] @ kernel + bias, rtol=1e-5, atol=1e-6)
