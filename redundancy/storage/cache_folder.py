"""Files in the user's cache folder, which make later starts faster. Results do not depend on them."""

import hashlib
import os

from redundancy import storage


def cache_folder() -> str | None:
    """Path of the cache folder, which may not exist yet; None if the user has no home directory."""
    # A relative XDG_CACHE_HOME is invalid and must be ignored (XDG base directory specification).
    roots = (os.environ.get("XDG_CACHE_HOME", ""), os.path.join(os.path.expanduser("~"), ".cache"))
    root = next((root for root in roots if os.path.isabs(root)), None)
    return root and os.path.join(root, "redundancy")


def _checksum(key: bytes, data: bytes) -> bytes:
    return hashlib.sha256(key + data).digest()


def load(path: str, key: bytes) -> bytes | None:
    """The data that `save` wrote with this key; None if the file is missing, damaged or has another key."""
    try:
        found = storage.read_bytes(path)
    except OSError:
        return None
    size = hashlib.sha256().digest_size
    return found[size:] if found[:size] == _checksum(key, found[size:]) else None


def save(path: str, key: bytes, data: bytes) -> None:
    """Writes a checksum of `key` and `data`, then `data`. The key must contain all that the data depends on. Raises OSError."""
    storage.write_bytes(path, _checksum(key, data) + data)
