"""Caches the object code of compiled kernels in the user's cache folder, so that later processes start faster.

The code is executed, so each file has a checksum, and a folder that other users may write to is not used. Damaged files are
compiled again. If the folder cannot be written to, nothing is cached.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable

from redundancy.storage import cache_folder

MOST_FILES = 1000  # of some KiB each; the oldest beyond this number are removed


def kept(identity: str, make: Callable[[], bytes]) -> bytes:
    """Returns the cached result of `make`, which is called if no earlier process has cached it.

    Args:
      identity: everything that the object code depends on.
      make: () -> object code.
    """
    key = hashlib.sha256(identity.encode()).digest()
    folder = _folder()
    if folder is None:
        return make()
    path = os.path.join(folder, f"{key.hex()}.object")
    found = cache_folder.load(path, key)
    if found is None:
        found = make()
        with contextlib.suppress(OSError):
            cache_folder.save(path, key, found)
            _bound(folder)
    return found


def _folder() -> str | None:
    """The cache folder, created if missing; None if that fails or other users may write to it."""
    root = cache_folder.cache_folder()
    if root is None:
        return None
    folder = os.path.join(root, "kernels")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        status = os.stat(folder)
    except OSError:
        return None
    return folder if status.st_uid == os.geteuid() and not status.st_mode & 0o022 else None


def _bound(folder: str) -> None:
    """Removes the oldest files beyond MOST_FILES, including unfinished ones of killed processes."""
    with os.scandir(folder) as entries:
        files = sorted((entry.stat().st_mtime, entry.path) for entry in entries)
    for _, path in files[:-MOST_FILES]:
        with contextlib.suppress(OSError):
            os.remove(path)
