"""Images as data URIs, so that the page needs no other file."""

import base64
import io
import math

import numpy as np
from PIL import Image

_LOSSLESS_SIDE = 64  # up to this side PNG is small, and JPEG would blur what little there is
_STORED_SIDE = 128
_SHOWN_SIDE = 112
_LEAST_SHOWN_SIDE = 56


def encode(image: np.ndarray) -> str:
    """A data URI: PNG for small images, a JPEG of at most 128 pixels a side for larger ones.

    Args:
      image: [H, W, C] uint8. Of other numbers of channels than 1 and 3 the first three, or the first, are shown.
    """
    picture = Image.fromarray(np.ascontiguousarray(image[..., :3] if image.shape[-1] >= 3 else image[..., 0]))
    buffer = io.BytesIO()
    if max(picture.size) <= _LOSSLESS_SIDE:
        picture.save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        picture.thumbnail((_STORED_SIDE, _STORED_SIDE), Image.Resampling.LANCZOS)
        picture.save(buffer, "JPEG", quality=85)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def shown_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """CSS pixels (width, height) to show an image of `shape` (H, W, ...) at: small ones by whole factors where
    they fit."""
    height, width = shape[:2]
    scale = min(math.ceil(_LEAST_SHOWN_SIDE / min(height, width)), _SHOWN_SIDE / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))
