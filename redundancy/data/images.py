"""Decoding, cropping and checking image files with Pillow. Never imports TensorFlow.

A file is told by its contents, not by its name. JPEG, PNG, BMP and GIF alone are opened: other formats would start programs
(EPS), or have pixels of more than 8 bits. Whatever the mode, pixels become RGB: transparency is dropped, palettes and CMYK are
converted, an animation is its first frame. The orientation that a camera noted (EXIF) is not applied, as in TFDS.
"""

import contextlib
import errno
import math
import os
import re
import threading

import numpy as np
from PIL import Image

from redundancy.data.crops import RandomResizedCrop, centre_box
from redundancy.data.inputs import quiet, shown, unfit
from redundancy.data.resize import resize
from redundancy.runtime.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
_FORMATS = ("JPEG", "PNG", "BMP", "GIF")
# A file of a few bytes can claim any size. The pixels are those that Pillow begins to warn at, the side is JPEG's greatest.
_MOST_PIXELS = 89_478_485
_LONGEST_SIDE = 65_535
# Of images above this many pixels a few are decoded at once: of many, all memory would be used up.
_LARGE = 1 << 25
_FEW = threading.Semaphore(4)
# Faults of this machine, its disk or network, not of a file: they may be gone at the next try.
_PASSING = {
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ECONNRESET, errno.EMFILE, errno.ENFILE, errno.ENOMEM,
}  # fmt: skip


class BadImageError(ValueError):
    """A file that is not a whole image of a format that is read; the text says why, as what follows the file's name."""


def _open(path: str) -> Image.Image:
    """The image of a regular file, not decoded yet; raises BadImageError, and what Pillow raises for damaged ones."""
    if problem := unfit(path):
        raise BadImageError(problem)
    if not os.path.getsize(path):
        raise BadImageError("is empty (0 bytes)")
    try:
        image = Image.open(path, formats=_FORMATS)
    except Image.UnidentifiedImageError as error:
        with open(path, "rb") as file:
            start = file.read(12)
        raise BadImageError(f"cannot be identified as JPEG, PNG, BMP or GIF (it begins with {start!r})") from error
    except Image.DecompressionBombError as error:
        found = re.search(r"\d+ pixels", str(error))
        raise BadImageError(f"has {found[0] if found else 'too many pixels'}; wanted at most {_MOST_PIXELS}") from error
    width, height = image.size
    if width * height > _MOST_PIXELS or max(width, height) > _LONGEST_SIDE:
        image.close()
        raise BadImageError(
            f"has {width} x {height} pixels; wanted at most {_MOST_PIXELS}, and {_LONGEST_SIDE} along a side"
        )
    if image.mode[0] in "IF":
        image.close()
        raise BadImageError(f"has pixels of mode {image.mode}; wanted 8 bits a channel")
    return image


def _turn(image: Image.Image) -> contextlib.AbstractContextManager:
    """Held while an image is decoded; a large one waits for its turn."""
    return _FEW if math.prod(image.size) > _LARGE else contextlib.nullcontext()


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "CMYK" and "adobe" not in image.info:
        # Pillow takes every CMYK JPEG for one of Adobe's, whose numbers are inverted.
        image = Image.eval(image, lambda value: 255 - value)
    return image.convert("RGB")


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
    with _turn(image):
        part = np.asarray(_rgb(image).crop((low[1], low[0], high[1], high[0])))
    return resize(part, np.concatenate([box[:2] - low, box[2:]]), size)


def decode(path: str, size: int, *square) -> np.ndarray:
    """uint8 [size, size, 3] of an image file (its own height and width where size is 0); animations: the first frame.

    Args:
      path: of the file.
      size: pixels, or 0.
      *square: `cut`'s share, crop and draws.

    Raises:
      BadImageError, OSError, ValueError, SyntaxError and others: not a whole image.
    """
    with quiet(), _open(path) as image:
        if size:
            return cut(image, size, *square)
        with _turn(image):
            return np.asarray(_rgb(image))


def check(path: str) -> tuple[tuple[int, int] | None, str]:
    """Decodes an image file as cheaply as shows that it is whole.

    Returns:
      (width, height) and '', or None and what is wrong: what follows the file's name.

    Raises:
      DataError: the machine cannot read the file now, which says nothing of the file.
    """
    try:
        with quiet(), _open(path) as image:
            size = image.size
            image.draft("RGB", (1, 1))
            with _turn(image):
                image.load()
                if image.mode not in ("RGB", "L"):
                    _rgb(image)
            return size, ""
    # Pillow's plugins raise nearly anything on damaged files; whichever, it is the file's fault.
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _PASSING:
            raise DataError(
                f"{shown(path)} cannot be read ({error.strerror}), a fault of this machine, its disk or network and not of "
                "the image. Give the same command again, and look after the disk where that does not help."
            ) from error
        return None, describe(error, path)


def describe(error: Exception, path: str) -> str:
    """What is wrong with the image file that made `decode` or `check` raise, in one line."""
    if isinstance(error, BadImageError):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read ({error.strerror})"
    text = " ".join((str(error) or type(error).__name__).replace(repr(path), "it").split())
    return f"cannot be decoded ({shown(text)})"
