"""The header of a .npy array, looked at before anything of that size is allocated. Never unpickles."""

import dataclasses
import math
import re
from typing import BinaryIO

import numpy as np

from redundancy.data.inputs import quiet, shown

_MAGIC = b"\x93NUMPY"
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class NotAnArrayError(ValueError):
    """No array, or one that is not loaded; the text says why, as what follows the file's name."""


@dataclasses.dataclass(frozen=True)
class Header:
    """What a .npy file says of itself, and keeps: it is as long as its shape and type ask for.

    Attributes:
      shape, dtype, fortran_order: of the array.
      offset: bytes before the array's own.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran_order: bool
    offset: int


def read_header(file: BinaryIO, size: int) -> Header:
    """Reads the header of an open .npy file of `size` bytes, from its begin.

    Raises:
      NotAnArrayError: no .npy, a damaged header, Python objects, or another number of bytes than the header asks for.
    """
    start = file.read(len(_MAGIC))
    if start != _MAGIC:
        several = start.startswith(b"PK\x03\x04")
        raise NotAnArrayError("holds several arrays (.npz)" if several else "is no .npy file")
    try:
        version = tuple(file.read(2))
        if version not in _READERS:
            raise ValueError(f"version {'.'.join(map(str, version))} of the format is none of plain arrays")
        with quiet():
            shape, fortran_order, dtype = _READERS[version](file)
        shape = tuple(map(int, shape))
        if min(shape, default=0) < 0:
            raise ValueError(f"its shape is {list(shape)}")
    # The header is parsed as a Python literal: damage makes that raise nearly anything.
    except Exception as error:
        first = re.sub(r" at 0x\w+", "", (str(error).strip() or type(error).__name__).splitlines()[0][:200])
        raise NotAnArrayError(f"is truncated or damaged ({first})") from error
    if dtype.hasobject:
        raise NotAnArrayError(
            "holds pickled Python objects, which are not loaded, since unpickling can run any program"
        )
    offset = file.tell()
    wanted = offset + math.prod(shape) * dtype.itemsize
    found = shown(f"its header says {dtype} {list(shape)}, {wanted} bytes in all, and it has {size}")
    if size != wanted:
        raise NotAnArrayError(f"is {'truncated' if size < wanted else 'too long'} or damaged ({found})")
    if not dtype.itemsize:
        raise NotAnArrayError(f"has items of no size ({found})")
    return Header(shape, dtype, fortran_order, offset)


def read_array(file: BinaryIO, size: int) -> np.ndarray:
    """The array of an open .npy file of `size` bytes, from its begin; raises as `read_header`."""
    header = read_header(file, size)
    try:
        flat = np.frombuffer(file.read(size - header.offset), header.dtype)
        array = flat.reshape(header.shape[::-1]).T if header.fortran_order else flat.reshape(header.shape)
    except Exception as error:
        raise NotAnArrayError(f"is damaged ({error})") from error
    array.setflags(write=False)
    return array
