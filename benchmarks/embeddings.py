"""Embeddings with the geometry of a trained network, any number of them, from scikit-learn's bundled digits.

A small ResNet of this package is trained for some hundred steps on randomly distorted digits; other distortions of the
same digits are then embedded. The distortions are continuous, so no image occurs twice. A dense network, which embeds ten times
as fast, makes the sets of millions. It reads only scikit-learn's own file.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import sklearn.datasets

from redundancy.models import ResNet

STEPS = 200
WIDE = 2048
_BATCH, _EMBED_BATCH = 64, 512
# The bundled order is by writer: some of the last images are by other people, so they test whether the network learned.
_TRAIN_IMAGES = 1347
_MODEL = ResNet(stage_blocks=(1, 1, 1), widths=(16, 32, 64), num_classes=10)
DENSE_STEPS = 2000


class _Dense(nn.Module):
    """Two hidden layers of 256 units, and `width` units as the embedding: [B, 8, 8, 1] to logits [B, 10] and layers, as ResNet."""

    width: int = 64

    @nn.compact
    def __call__(self, x, train):
        x = x.reshape(len(x), -1)
        for units in (256, 256, self.width):
            x = nn.relu(nn.Dense(units, kernel_init=nn.initializers.he_normal())(x))
        return nn.Dense(10)(x), {"end": x}


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Images [1797, 8, 8] float32 in 0…1 and labels [1797] int32, in the bundled order."""
    digits = sklearn.datasets.load_digits()
    return (digits.images / 16).astype(np.float32), digits.target.astype(np.int32)


def distort(key: jax.Array, images: jax.Array) -> jax.Array:
    """Moves, turns, scales and shears each image by its own random amount, and changes its brightness and contrast.

    Args:
      key: random key.
      images: [B, 8, 8] float32 in 0…1.

    Returns:
      [B, 8, 8] float32, about 0…1.
    """
    count, size, _ = images.shape
    amounts = jax.random.uniform(key, (8, count), minval=-1.0, maxval=1.0)
    angle = 0.25 * amounts[0]
    across, down = 1 + 0.15 * amounts[1:3]
    shear = 0.2 * amounts[3]
    shift_y, shift_x = amounts[4:6]
    centre = (size - 1) / 2
    y, x = jnp.meshgrid(jnp.arange(size) - centre, jnp.arange(size) - centre, indexing="ij")
    y, x = y.ravel(), x.ravel()
    cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
    from_y = (cos * y + sin * x) * down[:, None] + shift_y[:, None] + centre
    from_x = (cos * x - sin * y) * across[:, None] + shear[:, None] * y + shift_x[:, None] + centre
    # Bilinear interpolation as products with hat functions, since gathers of single pixels are slow on every device.
    weight_y = jnp.maximum(0, 1 - jnp.abs(from_y[..., None] - jnp.arange(size)))
    weight_x = jnp.maximum(0, 1 - jnp.abs(from_x[..., None] - jnp.arange(size)))
    moved = (jnp.einsum("bpw,bhw->bph", weight_x, images) * weight_y).sum(-1).reshape(images.shape)
    contrast, brightness = 1 + 0.2 * amounts[6], 0.1 * amounts[7]
    return moved * contrast[:, None, None] + brightness[:, None, None]


def _input(images: jax.Array) -> jax.Array:
    """[B, 8, 8] in 0…1 to the network's [B, 8, 8, 1], of about mean 0 and deviation 1."""
    return (images[..., None] - 0.3) / 0.38


def _distorted(key: jax.Array, images: jax.Array) -> jax.Array:
    return _input(distort(key, images))


def _loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _optimizer(rate: float, steps: int) -> optax.GradientTransformation:
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, min(20, steps // 2), steps)
    return optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(schedule, momentum=0.9, nesterov=True))


def train(
    model: nn.Module,
    steps: int,
    images: np.ndarray,
    labels: np.ndarray,
    change: Callable[[jax.Array, jax.Array], jax.Array] = _distorted,
    batch: int = _BATCH,
) -> dict[str, Any]:
    """Variables of the model after `steps` steps on images that `change`, of a key and images, makes the network's input."""
    optimizer = _optimizer(0.01 if isinstance(model, _Dense) else 0.1, steps)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(variables, opt_state, key):
        draw, drawn = jax.random.split(key)
        rows = jax.random.randint(draw, (batch,), 0, len(images))
        x = change(drawn, jnp.asarray(images)[rows])

        def loss_of(params):
            (logits, _), updated = model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
            return _loss(logits, jnp.asarray(labels)[rows]), updated

        grads, updated = jax.grad(loss_of, has_aux=True)(variables["params"])
        updates, opt_state = optimizer.update(grads, opt_state, variables["params"])
        return {"params": optax.apply_updates(variables["params"], updates), **updated}, opt_state

    # This generator compiles in less than half the time of the default one.
    init = jax.jit(lambda key: model.init(key, change(key, jnp.asarray(images[:1])), train=False))
    variables = init(jax.random.key(0, impl="rbg"))
    opt_state = jax.jit(optimizer.init)(variables["params"])
    for number in range(steps):
        variables, opt_state = step(variables, opt_state, jax.random.key(1000 + number))
    return variables


def _hidden(wide: dict[str, jax.Array], embeddings: jax.Array) -> jax.Array:
    return jax.nn.relu(embeddings @ wide["hidden"] + wide["bias"])


def _init_wide(key: jax.Array) -> dict[str, jax.Array]:
    hidden_key, out_key = jax.random.split(key)
    width = _MODEL.widths[-1]
    return {
        "hidden": jax.random.normal(hidden_key, (width, WIDE)) * (2 / width) ** 0.5,
        "bias": jnp.zeros(WIDE),
        "out": jax.random.normal(out_key, (WIDE, 10)) * WIDE**-0.5,
    }


def _train_wide(steps: int, embeddings: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    """A hidden layer of 2,048 ReLU units and a classifier, trained on embeddings [n, 64] and labels [n]."""
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-3, steps))

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(wide, opt_state, key):
        rows = jax.random.randint(key, (_BATCH,), 0, len(embeddings))
        grads = jax.grad(lambda wide: _loss(_hidden(wide, embeddings[rows]) @ wide["out"], labels[rows]))(wide)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(wide, updates), opt_state

    wide = jax.jit(_init_wide)(jax.random.key(2, impl="rbg"))
    opt_state = jax.jit(optimizer.init)(wide)
    for number in range(steps):
        wide, opt_state = step(wide, opt_state, jax.random.key(2000 + number))
    return wide


@functools.partial(jax.jit, static_argnums=0)
def _embed(model, variables, wide, images, first, count, key):
    """One batch of distortions of the `count` images from `first` on, embedded: [B, 64] or [B, 2048] float32."""
    draw, change = jax.random.split(key)
    rows = first + jax.random.randint(draw, (_EMBED_BATCH,), 0, count)
    end = model.apply(variables, _input(distort(change, images[rows])), train=False)[1]["end"]
    return end if wide is None else _hidden(wide, end)


@dataclasses.dataclass(frozen=True)
class Network:
    """A trained network that embeds distorted digits.

    Attributes:
      steps: steps it was trained for.
      train_s: seconds of training, compilation included.
      test_accuracy: share of the 450 held-out digits, undistorted, that it classifies rightly.
    """

    steps: int
    train_s: float
    test_accuracy: float
    _variables: dict[str, Any]
    _model: nn.Module = _MODEL

    @property
    def _width(self) -> int:
        return self._model.width if isinstance(self._model, _Dense) else self._model.widths[-1]

    @functools.cached_property
    def _wide(self) -> dict[str, jax.Array]:
        """Weights of the wide layer; trained at first use."""
        # No case uses this seed, so the network embeds other images later.
        embeddings = np.concatenate([self.embed(digit, _EMBED_BATCH, seed=1 << 30) for digit in range(10)])
        return _train_wide(self.steps, jnp.asarray(embeddings), jnp.repeat(jnp.arange(10), _EMBED_BATCH))

    def embed(self, digit: int, n: int, seed: int, wide: bool = False) -> np.ndarray:
        """Embeddings of n distinct distorted images of one digit; those for a smaller n are the first of them.

        Args:
          digit: 0…9.
          n: images.
          seed: another seed, other images.
          wide: the hidden layer of 2,048 units rather than the pooled output of 64.

        Returns:
          [n, 64] or [n, 2048] float32, non-negative.
        """
        images, first, count = _by_digit()
        layer = self._wide if wide else None
        out = np.empty((n, WIDE if wide else self._width), np.float32)
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), digit), seed)
        for batch, start in enumerate(range(0, n, _EMBED_BATCH)):
            key_of_batch = jax.random.fold_in(key, batch)
            rows = _embed(self._model, self._variables, layer, images, first[digit], count[digit], key_of_batch)
            out[start : start + _EMBED_BATCH] = np.asarray(rows)[: n - start]
        return out

    def embed_all(self, out: np.ndarray, seed: int = 0) -> None:
        """Fills out, [n, d] float32, with distorted images of all digits in turn; those for a smaller n are the first of them."""
        for digit in range(10):
            out[digit::10] = self.embed(digit, len(out[digit::10]), seed)


@functools.cache
def _by_digit() -> tuple[jax.Array, np.ndarray, np.ndarray]:
    """Training images sorted by digit, [1347, 8, 8]; each digit's first row and number of images, [10]."""
    images, labels = (array[:_TRAIN_IMAGES] for array in _digits())
    count = np.bincount(labels)
    return jnp.asarray(images[np.argsort(labels, kind="stable")]), np.cumsum(count) - count, count


@functools.cache
def network(steps: int = STEPS) -> Network:
    """The ResNet after `steps` steps of each training; cached within a process."""
    return _network(_MODEL, steps)


@functools.cache
def dense_network(width: int = 64, steps: int = DENSE_STEPS) -> Network:
    """The dense network with embeddings of `width` numbers after `steps` steps; cached within a process."""
    return _network(_Dense(width), steps)


def _network(model: nn.Module, steps: int) -> Network:
    start = time.perf_counter()
    images, labels = _digits()
    variables = train(model, steps, images[:_TRAIN_IMAGES], labels[:_TRAIN_IMAGES])
    held_out = jnp.asarray(images[_TRAIN_IMAGES:])
    logits = jax.jit(lambda images: model.apply(variables, _input(images), train=False)[0])(held_out)
    accuracy = float((logits.argmax(-1) == labels[_TRAIN_IMAGES:]).mean())
    return Network(steps, time.perf_counter() - start, accuracy, variables, model)
