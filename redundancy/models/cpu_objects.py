"""Object code of compiled kernels, kept in the user's cache folder so that later processes need not compile them anew.

It is run as it lies there. So it has a checksum, and a folder that others than the user may write to is left alone.
Whatever is wrong there costs time alone: what is not whole is compiled anew, and where nothing can be written nothing is kept.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable

from redundancy.runtime.cache_folder import cache_folder
from redundancy.scratch import scratch_file

MOST_FILES = 1000  # of some KiB each; then the oldest go


def kept(identity: str, make: Callable[[], bytes]) -> bytes:
    """What `make` returns, or returned in an earlier process.

    Args:
      identity: everything that the object code depends on.
      make: () -> object code.
    """
    key = hashlib.sha256(identity.encode()).digest()
    folder = _folder()
    if folder is None:
        return make()
    path = os.path.join(folder, f"{key.hex()}.object")
    found = _load(path, key)
    if found is None:
        found = make()
        with contextlib.suppress(OSError):
            with scratch_file(path, path, _checksum(key, found) + found) as scratch:
                os.replace(scratch, path)
            _bound(folder)
    return found


def _folder() -> str | None:
    """The folder, made where it is missing; None where there can be none, or others may write to it."""
    root = cache_folder()
    if root is None:
        return None
    folder = os.path.join(root, "kernels")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        status = os.stat(folder)
    except OSError:
        return None
    return folder if status.st_uid == os.geteuid() and not status.st_mode & 0o022 else None


def _checksum(key: bytes, code: bytes) -> bytes:
    return hashlib.sha256(key + code).digest()


def _load(path: str, key: bytes) -> bytes | None:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return None
    size = hashlib.sha256().digest_size
    return data[size:] if data[:size] == _checksum(key, data[size:]) else None


def _bound(folder: str) -> None:
    """Removes the oldest files, and what killed processes left, beyond MOST_FILES."""
    with os.scandir(folder) as entries:
        files = sorted((entry.stat().st_mtime, entry.path) for entry in entries)
    for _, path in files[:-MOST_FILES]:
        with contextlib.suppress(OSError):
            os.remove(path)
