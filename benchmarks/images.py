"""Embeddings of any number of flipped and shifted images of a data set, by a small ResNet that is trained on it here.

Each image comes flipped or not, and shifted by up to four pixels either way: 162 ways, of which none occurs twice.
"""

import functools
import hashlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common, embeddings
from redundancy.models import ResNet
from redundancy.models.convolution import formulation_for

STEPS = 1000
_SHIFT, _BATCH, _EMBED_BATCH = 4, 128, 500
_WAYS = [*itertools.product((False, True), range(2 * _SHIFT + 1), range(2 * _SHIFT + 1))]


def _padded(images: jax.Array) -> jax.Array:
    """[B, H, W, C] uint8 to [B, H + 8, W + 8, C] float32 of about mean 0 and deviation 1."""
    border = [(0, 0), (_SHIFT, _SHIFT), (_SHIFT, _SHIFT), (0, 0)]
    return jnp.pad((images.astype(jnp.float32) - 120) / 64, border)


def _moved(images: jax.Array, flip: jax.Array, down: jax.Array, across: jax.Array) -> jax.Array:
    _, height, width, channels = images.shape
    part = jax.lax.dynamic_slice(_padded(images), (0, down, across, 0), (len(images), height, width, channels))
    return jnp.where(flip, part[:, :, ::-1], part)


def _changed(key: jax.Array, images: jax.Array) -> jax.Array:
    """Each image flipped and shifted at random."""
    ways = jax.random.randint(key, (len(images),), 0, len(_WAYS))
    flip, down, across = jnp.asarray(_WAYS, jnp.int32)[ways].T
    return jax.vmap(lambda image, *way: _moved(image[None], *way)[0])(images, flip, down, across)


@functools.partial(jax.jit, static_argnums=0)
def _embed(model, variables, images, way):
    return model.apply(variables, _moved(images, *way), train=False)[1]["end"]


def of_images(path: str, n: int) -> np.ndarray:
    """Embeddings of n images that are flipped and shifted, each image as it is first; those for fewer are the first of them.

    Args:
      path: .npz file of train_images, [m, H, W, C] uint8, and train_labels, [m].
      n: images, up to 162 m.

    Returns:
      [n, 64] float32, kept in the user's cache folder.
    """
    with np.load(path, allow_pickle=False) as arrays:
        images, labels = arrays["train_images"], arrays["train_labels"].astype(np.int32)
    if n > len(_WAYS) * len(images):
        raise ValueError(f"{n} images are wanted; {len(images)} in {len(_WAYS)} ways are {len(_WAYS) * len(images)}")

    def make() -> np.ndarray:
        model = ResNet(
            stage_blocks=(1, 1, 1), widths=(16, 32, 64), num_classes=int(labels.max()) + 1,
            formulation=formulation_for(jax.default_backend()),
        )  # fmt: skip
        variables = embeddings.train(model, STEPS, images, labels, _changed, _BATCH)
        # The image as it is comes first, then the others in an order that has nothing to do with how they are made.
        middle = _WAYS.index((False, _SHIFT, _SHIFT))
        others = np.random.default_rng(0).permutation([way for way in range(len(_WAYS)) if way != middle])
        out = np.empty((n, 64), np.float32)
        for number, way in enumerate([middle, *others]):
            for start in range(0, min(len(images), n - number * len(images)), _EMBED_BATCH):
                rows = np.asarray(_embed(model, variables, images[start : start + _EMBED_BATCH], _WAYS[way]))
                at = number * len(images) + start
                out[at : at + len(rows)] = rows[: n - at]
        return out

    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()[:16]
    return common.cached(f"images-{digest}-steps-{STEPS}-images-{n}.npy", make)
