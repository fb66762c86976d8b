"""Random changes of training images, and normalisation, on the device. Pure JAX; knows nothing of data sets."""

import functools

import jax
import jax.numpy as jnp

from redundancy.runtime.errors import ConfigError


def augment(images: jax.Array, key: jax.Array, positions: jax.Array, kind: str, pad: int) -> jax.Array:
    """Crops and flips each image at random.

    The change of an image depends only on (key, position), not on its place in the batch, so batches may be reordered and
    sharded. Works under jit, scan, vmap and shard_map.

    Args:
      images: uint8 [B, H, W, C].
      key: the key of this trial and step.
      positions: int32 [B].
      kind: one of config.AUGMENTATIONS. 'flip' mirrors half of the images horizontally; 'crop' pads with zeros and cuts out
        H x W at random; 'resized_crop' does nothing here, since crops are made when images are decoded.
      pad: pixels of padding.

    Returns:
      uint8 [B, H, W, C].
    """
    if kind in ("none", "resized_crop"):
        return images
    bits = jax.vmap(lambda position: jax.random.bits(jax.random.fold_in(key, position), (3,)))(positions)
    if kind in ("crop", "crop_flip") and pad:
        offsets = (bits[:, :2] % (2 * pad + 1)).astype(jnp.int32)
        images = _crop(images, offsets, pad)
    if "flip" in kind:
        flip = (bits[:, 2] >> 31).astype(bool)
        images = jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)
    return images


def _crop(images: jax.Array, offsets: jax.Array, pad: int) -> jax.Array:
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    cut = functools.partial(jax.lax.dynamic_slice, slice_sizes=images.shape[1:])
    return jax.vmap(lambda image, offset: cut(image, (offset[0], offset[1], 0)))(padded, offsets)


def normalize(images: jax.Array, mean: tuple[float, ...], std: tuple[float, ...], dtype=jnp.float32) -> jax.Array:
    """(images / 255 - mean) / std, computed in float32.

    Args:
      images: uint8 [..., C].
      mean, std: one number, or one per channel.
      dtype: type of the result.

    Raises:
      ConfigError: mean or std has neither one number nor one per channel.
    """
    for name, numbers in (("mean", mean), ("std", std)):
        if len(numbers) not in (1, images.shape[-1]):
            raise ConfigError(
                f"config.{name} has {len(numbers)} numbers, but the images have {images.shape[-1]} channels; "
                "wanted one number, or one per channel."
            )
    scaled = images.astype(jnp.float32) / 255
    return ((scaled - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)).astype(dtype)
