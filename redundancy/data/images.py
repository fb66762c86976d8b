"""Decoding, resizing and checking image files with Pillow. Never imports TensorFlow."""

import numpy as np
from PIL import Image


def fit(image: Image.Image, size: int) -> np.ndarray:
    """The image with its shorter side resized to `size` (antialiased bilinear) and the centre square cut out.

    Args:
      image: of mode L or RGB.
      size: pixels; 0 leaves the image as it is.

    Returns:
      uint8 [size, size] or [size, size, 3].
    """
    if size:
        shorter = min(image.size)
        width, height = (max(size, round(side * size / shorter)) for side in image.size)
        if (width, height) != image.size:
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - size) // 2, (height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    return np.asarray(image)


def decode(path: str, size: int) -> np.ndarray:
    """uint8 [size, size, 3] of an image file (its own height and width where size is 0); animations: the first frame.

    Raises:
      OSError, ValueError, SyntaxError, Image.DecompressionBombError: not a whole image.
    """
    with Image.open(path) as image:
        if size:
            # JPEG is decoded at 1/2, 1/4 or 1/8 where that leaves twice the size wanted: much less work for large
            # photographs, and next to no difference after resizing.
            image.draft("RGB", (2 * size, 2 * size))
        return fit(image.convert("RGB"), size)


def check(path: str) -> tuple[tuple[int, int] | None, str]:
    """Decodes an image file as cheaply as shows that it is whole.

    Returns:
      (width, height) and '', or None and what is wrong.
    """
    try:
        with Image.open(path) as image:
            size = image.size
            if image.mode[0] in "IF":
                return None, f"has pixels of mode {image.mode}; wanted 8 bits a channel"
            image.draft("RGB", (1, 1))
            image.load()
            return size, ""
    except Image.UnidentifiedImageError:
        return None, "is not an image"
    # Pillow's plugins raise these, and more rarely others, on damaged files; whichever, it is the file's fault.
    except Exception as error:
        return None, str(error) or type(error).__name__
