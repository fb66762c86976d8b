"""Images as small pictures that the page embeds, so that it needs no other files."""

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

LOSSLESS_SIDE = 64  # up to this side lossless files are small, and JPEG would blur the few details
_STORED_SIDE = 128
_SHOWN_SIDE = 112
_LEAST_SHOWN_SIDE = 56
# Kinds of files of a picture.
KINDS = {
    "png": ("PNG", dict(optimize=True)),
    "lossless": ("WEBP", dict(lossless=True, quality=60)),
    "lossy": ("WEBP", dict(quality=80, method=4)),
    "jpeg": ("JPEG", dict(quality=85)),
}


def _picture(image: np.ndarray) -> Image.Image:
    """uint8 [H, W, C], at most 128 pixels a side; its first three channels, or its first if it has fewer."""
    picture = Image.fromarray(np.ascontiguousarray(image[..., :3] if image.shape[-1] >= 3 else image[..., 0]))
    if max(picture.size) > LOSSLESS_SIDE:
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
    """A data URI of an image uint8 [H, W, C]: PNG for small images, a JPEG for larger ones."""
    kind = "png" if max(image.shape[:2]) <= LOSSLESS_SIDE else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(compress(image, kind)).decode()}"


def choose_kind(sample: Sequence[np.ndarray], count: int, most_bytes: float) -> tuple[str, float]:
    """The kind of `count` pictures in `most_bytes`, lossless if they fit, and the mean bytes of a picture in base64.

    Args:
      sample: some of the images, uint8 [H, W, C].
    """
    if not len(sample):
        return "png", 0.0
    small = max(sample[0].shape[:2]) <= LOSSLESS_SIDE
    found = {
        kind: 4 / 3 * sum(len(compress(image, kind)) for image in sample) / len(sample) + 4
        for kind in (("png", "lossless", "lossy") if small else ("lossy",))
    }
    best = min(list(found)[:-1], key=found.get, default="lossy")
    kind = best if count * found[best] <= most_bytes or found[best] <= found["lossy"] else "lossy"
    return kind, found[kind]


def shown_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """CSS pixels (width, height) to show an image of `shape` (H, W, ...) at: small ones by whole factors if they fit."""
    height, width = shape[:2]
    scale = min(math.ceil(_LEAST_SHOWN_SIDE / min(height, width)), _SHOWN_SIDE / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))
