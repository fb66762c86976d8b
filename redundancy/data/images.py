"""Decoding, cropping and checking image files with Pillow. Never imports TensorFlow."""

import numpy as np
from PIL import Image

from redundancy.data.crops import RandomResizedCrop, centre_box
from redundancy.data.resize import resize


def cut(
    image: Image.Image,
    size: int,
    share: float = 1.0,
    crop: RandomResizedCrop | None = None,
    draws: np.ndarray | None = None,
) -> np.ndarray:
    """A square of an image: its centre, or the crop that `draws` mean.

    Args:
      image: opened, perhaps not yet decoded; of any mode that converts to RGB.
      size: side of the result in pixels.
      share: of the shorter side, that the centre square has.
      crop: how `draws` are to be understood; None cuts out the centre.
      draws: float64 [TRIES, 4], one row of `RandomResizedCrop.draws`.

    Returns:
      uint8 [size, size, 3].
    """
    width, height = image.size
    if crop is None:
        box = np.array(centre_box(height, width, share))
        spare = 2
    else:
        box = crop.windows(draws[None], np.array([height]), np.array([width]))[0].astype(np.float64)
        spare = 1
    # JPEG is decoded at 1/2, 1/4 or 1/8 where that leaves enough pixels: much less work for large photographs, and next
    # to no difference after resizing.
    ratio = max(ratio for ratio in (1, 2, 4, 8) if ratio == 1 or box[2:].min() >= ratio * spare * size)
    image.draft("RGB", (width // ratio, height // ratio))
    if image.size != (width, height):
        box /= ratio
    low = np.floor(box[:2])
    low, high = low.astype(int), np.ceil(box[:2] + box[2:]).astype(int)
    high = np.minimum(high, image.size[::-1])
    part = np.asarray(image.convert("RGB").crop((low[1], low[0], high[1], high[0])))
    return resize(part, np.concatenate([box[:2] - low, box[2:]]), size)


def decode(path: str, size: int, *square) -> np.ndarray:
    """uint8 [size, size, 3] of an image file (its own height and width where size is 0); animations: the first frame.

    Args:
      path: of the file.
      size: pixels, or 0.
      *square: `cut`'s share, crop and draws.

    Raises:
      OSError, ValueError, SyntaxError, Image.DecompressionBombError: not a whole image.
    """
    with Image.open(path) as image:
        return cut(image, size, *square) if size else np.asarray(image.convert("RGB"))


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
