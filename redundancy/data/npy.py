"""Reads .npy arrays; the header is checked before memory for the array is allocated. Never unpickles."""

import math
import re
import warnings
from typing import BinaryIO

import numpy as np

from redundancy.data.inputs import shown

_MAGIC = b"\x93NUMPY"
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class NotAnArrayError(ValueError):
    """The file holds no array, or one that cannot be loaded. The text continues a sentence that begins with the file's name."""


def read_header(file: BinaryIO, size: int) -> tuple[np.dtype, int, tuple[int, ...], str]:
    """Reads the header of an open .npy file of `size` bytes.

    Returns:
      dtype, offset of the data in bytes, shape, and order, "C" or "F". The file's size matches them.

    Raises:
      NotAnArrayError: the file is not .npy, has a damaged header or Python objects, or its size does not match the header.
    """
    start = file.read(len(_MAGIC))
    if start != _MAGIC:
        raise NotAnArrayError(
            "holds several arrays (.npz), or is a file of PyTorch" if start.startswith(b"PK\3\4") else "is no .npy file"
        )
    try:
        version = tuple(file.read(2))
        if len(version) < 2:
            raise ValueError("it ends in its header")
        if version not in _READERS:
            raise ValueError(f"version {'.'.join(map(str, version))} of the format is none of plain arrays")
        with warnings.catch_warnings(action="ignore"):
            shape, fortran_order, dtype = _READERS[version](file)
        shape = tuple(map(int, shape))
        if min(shape, default=0) < 0:
            raise ValueError(f"its shape is {list(shape)}")
    # The header is parsed as a Python literal, which raises many kinds of exceptions if it is damaged.
    except Exception as error:
        first = re.sub(r" at 0x\w+", "", (str(error).strip() or type(error).__name__).splitlines()[0][:200])
        raise NotAnArrayError(f"is truncated or damaged ({first})") from error
    if dtype.hasobject:
        raise NotAnArrayError("holds pickled Python objects, which are not loaded: unpickling can run any program")
    offset = file.tell()
    wanted = offset + math.prod(shape) * dtype.itemsize
    found = shown(f"its header says {dtype} {list(shape)}, {wanted} bytes in all, and it has {size}")
    if size != wanted:
        raise NotAnArrayError(f"is {'truncated' if size < wanted else 'too long'} or damaged ({found})")
    if not dtype.itemsize:
        raise NotAnArrayError(f"has items of no size ({found})")
    return dtype, offset, shape, "F" if fortran_order else "C"


def read_array(file: BinaryIO, size: int) -> np.ndarray:
    """The read-only array in an open .npy file of `size` bytes; raises as `read_header`."""
    dtype, offset, shape, order = read_header(file, size)
    try:
        return np.ndarray(shape, dtype, file.read(size - offset), order=order)
    except Exception as error:
        raise NotAnArrayError(f"is damaged ({error})") from error


def raw_bytes(dtype: np.dtype) -> str:
    """A hint for items of one or two raw bytes, in which form NumPy writes number types that it does not know; otherwise ''."""
    if dtype.kind != "V" or dtype.names or dtype.subdtype or dtype.itemsize > 2:
        return ""
    kind = "float8" if dtype.itemsize == 1 else "bfloat16"
    return f", raw bytes: NumPy writes {kind} so. Save it as float32, numpy.save(FILE, ARRAY.astype(numpy.float32))"
