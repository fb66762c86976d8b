"""Decodes, crops and checks image files with Pillow. Never imports TensorFlow.

A file's contents determine its format, not its name. Only pixel formats are opened: others could start programs (EPS), or have
no pixels of their own (SVG). Pixels are converted to RGB: transparency is dropped, palettes and CMYK are converted, and only the
first frame of an animation is used. Grey pixels of more than 8 bits are refused. As in TFDS, the camera's orientation (EXIF)
is not applied, except for TIFF, whose decoder applies it.
"""

import contextlib
import errno
import math
import os
import re
import threading
import warnings

import numpy as np
from PIL import Image

from redundancy.data.crops import RandomResizedCrop, centre_box
from redundancy.data.inputs import shown, unfit
from redundancy.data.resize import resize
from redundancy.runtime.errors import DataError

# File name endings of image files: of supported formats, and of others.
EXTENSIONS = (
    ".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".avif", ".tif", ".tiff", ".jfif", ".jpe", ".mpo", ".apng", ".dib",
    ".avifs", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".tga",
)  # fmt: skip
UNREAD_EXTENSIONS = (
    ".heic", ".heif", ".hif", ".heics", ".jxl", ".jxr", ".wdp", ".bpg", ".svg", ".svgz", ".eps", ".psd", ".psb", ".xcf",
    ".ai", ".emf", ".wmf", ".exr", ".hdr", ".pfm", ".dds", ".ktx", ".fit", ".fits", ".dcm", ".dicom", ".djvu", ".pcx", ".qoi",
    ".sgi", ".xbm", ".xpm", ".ras", ".ico", ".icns", ".cur", ".dng", ".raw", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw",
    ".sr2", ".srf", ".srw", ".orf", ".rw2", ".raf", ".pef", ".3fr", ".erf", ".kdc", ".dcr", ".mrw", ".x3f", ".rwl",
)  # fmt: skip
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "AVIF", "TIFF", "PPM", "JPEG2000", "DIB")
FORMAT_NAMES = "JPEG, PNG, BMP, GIF, WebP, AVIF, TIFF, PPM, JPEG 2000 or TGA"
_BEGINNINGS = (
    b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51",
)  # fmt: skip
_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
# A file of a few bytes can claim any size. The limit of pixels is that from which on Pillow warns; the side is JPEG's largest.
_MOST_PIXELS = 89_478_485
_LONGEST_SIDE = 65_535
# Of images above this number of pixels, only a few are decoded at once, to limit memory.
_LARGE = 1 << 25
_FEW = threading.Semaphore(4)
# Errors of this machine, its disk or network, not of a file; the next try may succeed.
_PASSING = {
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ECONNRESET, errno.EMFILE, errno.ENFILE, errno.ENOMEM,
}  # fmt: skip
# Pillow warns about files that it repairs or considers too large; this module decides which of them are used.
warnings.filterwarnings("ignore", module=r"PIL\.")


class BadImageError(ValueError):
    """A file is not an intact image of a supported format. The text gives the reason, to follow the file's name."""


def _open(path: str) -> Image.Image:
    """Opens an image without decoding it; raises BadImageError, or Pillow's errors for damaged files."""
    if problem := unfit(path):
        raise BadImageError(problem)
    if not os.path.getsize(path):
        raise BadImageError("is empty (0 bytes)")
    try:
        # The contents of a TGA file have no signature, so the name decides.
        image = Image.open(path, formats=(*_FORMATS, "TGA") if path.lower().endswith(".tga") else _FORMATS)
    except Image.UnidentifiedImageError as error:
        with open(path, "rb") as file:
            start = file.read(12)
        raise BadImageError(f"cannot be identified as {FORMAT_NAMES} (it begins with {start!r})") from error
    except Image.DecompressionBombError as error:
        found = re.search(r"\d+ pixels", str(error))
        raise BadImageError(f"has {found[0] if found else 'too many pixels'}; wanted at most {_MOST_PIXELS}") from error
    width, height = image.size
    if width * height > _MOST_PIXELS or max(width, height) > _LONGEST_SIDE:
        problem = f"has {width} x {height} pixels; wanted at most {_MOST_PIXELS}, and {_LONGEST_SIDE} along a side"
    elif image.mode[0] in "IF":
        problem = f"has pixels of mode {image.mode}; wanted 8 bits a channel"
    else:
        return image
    image.close()
    raise BadImageError(problem)


def is_image(path: str) -> bool:
    """Whether a file begins like an image file, whatever its name; False if it cannot be read."""
    if unfit(path):
        return False
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError:
        return False
    boxed = start[4:8] == b"ftyp" and start[8:12] in _BRANDS
    return start.startswith(_BEGINNINGS) or boxed or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")


def _turn(image: Image.Image) -> contextlib.AbstractContextManager:
    """Context to decode an image in; a large image waits for its turn."""
    return _FEW if math.prod(image.size) > _LARGE else contextlib.nullcontext()


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "CMYK" and image.format in ("JPEG", "MPO") and "adobe" not in image.info:
        # Pillow inverts every CMYK JPEG, as if Adobe had written it.
        image = Image.eval(image, lambda value: 255 - value)
    return image.convert("RGB")


def cut(
    image: Image.Image,
    size: int,
    share: float = 1.0,
    crop: RandomResizedCrop | None = None,
    draws: np.ndarray | None = None,
) -> np.ndarray:
    """Cuts a square uint8 [size, size, 3] out of an image that need not be decoded yet.

    It is the centre with `share` of the shorter side, or the crop that results from `draws`: float64 [TRIES, 4], one row
    of `RandomResizedCrop.draws`.
    """
    width, height = image.size
    if crop is None:
        box = np.array(centre_box(height, width, share))
        spare = 2
    else:
        box = crop.windows(draws[None], np.array([height]), np.array([width]))[0].astype(np.float64)
        spare = 1
    # JPEG is decoded at 1/2, 1/4 or 1/8 of the size if that leaves enough pixels: much faster for large photographs, and
    # hardly different after resizing.
    ratio = max(ratio for ratio in (1, 2, 4, 8) if ratio == 1 or box[2:].min() >= ratio * spare * size)
    image.draft("RGB", (width // ratio, height // ratio))
    if image.size != (width, height):
        box /= ratio
    low = np.floor(box[:2]).astype(int)
    high = np.minimum(np.ceil(box[:2] + box[2:]).astype(int), image.size[::-1])
    with _turn(image):
        part = np.asarray(_rgb(image).crop((low[1], low[0], high[1], high[0])))
    return resize(part, np.concatenate([box[:2] - low, box[2:]]), size)


def decode(path: str, size: int, *square) -> np.ndarray:
    """Decodes an image file to uint8 [size, size, 3]; *square are the share, crop and draws of `cut`. Size 0: the whole image.

    Raises BadImageError, OSError, ValueError, SyntaxError and others if the file is not an intact image.
    """
    with _open(path) as image:
        if size:
            return cut(image, size, *square)
        with _turn(image):
            return np.asarray(_rgb(image))


def check(path: str) -> tuple[tuple[int, int] | None, str]:
    """Decodes an image file as cheaply as possible, to check whether it is intact.

    Returns:
      (width, height) and '', or None and the problem, to follow the file's name.

    Raises:
      DataError: the machine cannot read the file at present.
    """
    try:
        with _open(path) as image:
            size = image.size
            image.draft("RGB", (1, 1))
            with _turn(image):
                image.load()
                if image.mode not in ("RGB", "L"):
                    _rgb(image)
            return size, ""
    # Pillow's plugins raise many kinds of exceptions for damaged files.
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _PASSING:
            raise DataError(
                f"{shown(path)} cannot be read ({error.strerror}), a fault of this machine, its disk or network and not of "
                "the image. Give the same command again; if that does not help, check the disk."
            ) from error
        return None, describe(error, path)


def describe(error: Exception, path: str) -> str:
    """The problem of an image file for which `decode` or `check` raised this error, in one line."""
    if isinstance(error, BadImageError):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read ({error.strerror})"
    text = " ".join((str(error) or type(error).__name__).replace(repr(path), "it").split())
    return f"cannot be decoded ({shown(text)})"
