import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from redundancy.data.augmentation import augment, normalize
from redundancy.runtime.errors import ConfigError

KINDS = ("none", "flip", "crop", "crop_flip")
IMAGES = np.random.default_rng(0).integers(1, 256, (16, 8, 6, 3), np.uint8)
POSITIONS = np.arange(100, 116, dtype=np.int32)
KEY = jax.random.key(7)


@pytest.mark.parametrize("kind", KINDS)
def test_does_not_depend_on_order_or_batch(kind):
    run = jax.jit(functools.partial(augment, kind=kind, pad=2))
    whole = np.asarray(run(IMAGES, KEY, POSITIONS))
    assert whole.shape == IMAGES.shape
    assert whole.dtype == np.uint8
    order = np.random.default_rng(1).permutation(16)
    assert np.array_equal(run(IMAGES[order], KEY, POSITIONS[order]), whole[order])
    assert np.array_equal(run(IMAGES[4:7], KEY, POSITIONS[4:7]), whole[4:7])


def _outcomes(image, kind, pad):
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0))) if "crop" in kind else image
    height, width, _ = image.shape
    rows, columns = padded.shape[0] - height + 1, padded.shape[1] - width + 1
    cuts = [padded[i : i + height, j : j + width] for i in range(rows) for j in range(columns)]
    return {cut.tobytes() for cut in cuts} | ({cut[:, ::-1].tobytes() for cut in cuts} if "flip" in kind else set())


@pytest.mark.parametrize("kind", KINDS)
def test_every_outcome_is_allowed_and_occurs(kind):
    count = 600
    found = augment(jnp.repeat(IMAGES[:1], count, 0), KEY, jnp.arange(count), kind, 1)
    assert {np.asarray(image).tobytes() for image in np.asarray(found)} == _outcomes(IMAGES[0], kind, 1)


def test_keys_differ():
    assert not np.array_equal(
        augment(IMAGES, KEY, POSITIONS, "crop_flip", 4), augment(IMAGES, jax.random.key(8), POSITIONS, "crop_flip", 4)
    )


def test_works_in_shard_map_and_scan():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.P("data")
    inner = functools.partial(augment, kind="crop_flip", pad=2)
    sharded = jax.shard_map(inner, mesh=mesh, in_specs=(spec, jax.P(), spec), out_specs=spec)
    wanted = inner(IMAGES, KEY, POSITIONS)
    assert np.array_equal(jax.jit(sharded)(IMAGES, KEY, POSITIONS), wanted)
    _, scanned = jax.lax.scan(lambda carry, _: (carry, inner(IMAGES, KEY, POSITIONS)), 0, length=2)
    assert np.array_equal(scanned[1], wanted)


def test_unknown_kind():
    with pytest.raises(ValueError, match="crop_flip"):
        augment(IMAGES, KEY, POSITIONS, "cutout", 4)


def test_normalize():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    found = normalize(jnp.asarray(IMAGES), mean, std, jnp.bfloat16)
    assert found.dtype == jnp.bfloat16
    wanted = (IMAGES / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(normalize(jnp.asarray(IMAGES), mean, std, jnp.float32), wanted, atol=1e-5)
    assert normalize(jnp.asarray(IMAGES[..., :1]), (0.5,), (0.25,)).shape == (16, 8, 6, 1)
    with pytest.raises(ConfigError, match=r"config\.mean has 3"):
        normalize(jnp.asarray(IMAGES[..., :1]), mean, (1.0,))
