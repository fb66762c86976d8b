"""Images as small files, so that the page needs no other."""

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

_LOSSLESS_SIDE = 64  # up to this side lossless files are small, and JPEG would blur what little there is
_STORED_SIDE = 128
_SHOWN_SIDE = 112
_LEAST_SHOWN_SIDE = 56
# How a picture may be stored, what is lost least first.
KINDS = {
    "png": ("PNG", dict(optimize=True)),
    "lossless": ("WEBP", dict(lossless=True, quality=60)),
    "lossy": ("WEBP", dict(quality=80, method=4)),
}


def _picture(image: np.ndarray) -> Image.Image:
    """uint8 [H, W, C], reduced to 128 pixels a side. Of other numbers of channels than 1 and 3 the first three, or the
    first, are taken."""
    picture = Image.fromarray(np.ascontiguousarray(image[..., :3] if image.shape[-1] >= 3 else image[..., 0]))
    if max(picture.size) > _LOSSLESS_SIDE:
        picture.thumbnail((_STORED_SIDE, _STORED_SIDE), Image.Resampling.LANCZOS)
    return picture


def reduced(image: np.ndarray, side: int) -> np.ndarray:
    """uint8 [h, w, 3], in colour, not larger than `side`."""
    picture = _picture(image).convert("RGB")
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def compress(image: np.ndarray, kind: str) -> bytes:
    """The file of an image uint8 [H, W, C], of a kind of KINDS."""
    name, options = KINDS[kind]
    buffer = io.BytesIO()
    _picture(image).save(buffer, name, **options)
    return buffer.getvalue()


def encode(image: np.ndarray) -> str:
    """A data URI: PNG for small images, a JPEG of at most 128 pixels a side for larger ones.

    Args:
      image: [H, W, C] uint8. Of other numbers of channels than 1 and 3 the first three, or the first, are shown.
    """
    picture = _picture(image)
    buffer = io.BytesIO()
    if max(image.shape[:2]) <= _LOSSLESS_SIDE:
        picture.save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        picture.save(buffer, "JPEG", quality=85)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def choose_kind(sample: Sequence[np.ndarray], count: int, most_bytes: float) -> tuple[str, float]:
    """How to store `count` pictures in `most_bytes`: without loss where they fit, and a picture's mean bytes in base64.

    Args:
      sample: some of the images, uint8 [H, W, C].
    """
    if not len(sample):
        return "png", 0.0
    small = max(sample[0].shape[:2]) <= _LOSSLESS_SIDE
    found = {}
    for kind in KINDS if small else ["lossy"]:
        found[kind] = 4 / 3 * sum(len(compress(image, kind)) for image in sample) / len(sample) + 4
    if small:
        exact = min(("png", "lossless"), key=found.get)
        if count * found[exact] <= most_bytes or found[exact] <= found["lossy"]:
            return exact, found[exact]
    return "lossy", found["lossy"]


def shown_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """CSS pixels (width, height) to show an image of `shape` (H, W, ...) at: small ones by whole factors where
    they fit."""
    height, width = shape[:2]
    scale = min(math.ceil(_LEAST_SHOWN_SIDE / min(height, width)), _SHOWN_SIDE / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))
