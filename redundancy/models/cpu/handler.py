"""The function in LLVM's intermediate language (handler.ll) through which XLA calls a function of kernels.py."""

import functools
import pathlib
import re
import string

import jax
from absl import logging

TEXT = pathlib.Path(__file__).with_name("handler.ll")
# Versions of XLA's foreign function interface whose structs have the offsets in handler.ll. Before you add a version, compare
# the offsets with its xla/ffi/api/c_api.h and run the tests in tests/models.
KNOWN_VERSIONS = ((0, 3), (0, 4), (0, 5))  # jaxlib 0.10.2, 0.11.2, 0.12.0


@functools.cache
def interface_version() -> tuple[int, int] | None:
    """Major and minor version of XLA's interface; None if it is unknown or not in KNOWN_VERSIONS."""
    try:
        text = (pathlib.Path(jax.ffi.include_dir()) / "xla/ffi/api/c_api.h").read_text()
    except OSError:
        return None
    found = {name: int(number) for name, number in re.findall(r"#define XLA_FFI_API_(MAJOR|MINOR) (\d+)", text)}
    version = found.get("MAJOR", -1), found.get("MINOR", -1)
    if version in KNOWN_VERSIONS:
        return version
    logging.warning(
        "XLA's foreign function interface has an unknown version, %d.%d: XLA's slower convolutions are used.", *version
    )
    return None


def handler(scratch: int, partial: int, parts: int, lanes: int) -> str:
    """The text of `ptr @handler(ptr)`, which calls `@kernel`.

    Args:
      scratch: bytes of zeros that the kernel needs.
      partial: bytes of the kernel's result if it is a sum over images; 0 if each image has its own result.
      parts: largest number of parts of a batch.
      lanes: the length of a sum is a multiple of this number of floats.
    """
    major, minor = interface_version()
    return string.Template(TEXT.read_text()).substitute(
        scratch=scratch, partial=partial, parts=parts, major=major, minor=minor, lanes=lanes, vector=4 * lanes
    )
