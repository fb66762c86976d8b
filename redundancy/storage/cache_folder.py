"""Files that make a later start faster: they are the user's own, and nothing depends on them."""

import hashlib
import os

from redundancy import storage


def cache_folder() -> str | None:
    """The folder, whether it is there or not; None if the user has none."""
    # A relative XDG_CACHE_HOME is invalid and to be ignored (XDG base directory specification).
    roots = (os.environ.get("XDG_CACHE_HOME", ""), os.path.join(os.path.expanduser("~"), ".cache"))
    root = next((root for root in roots if os.path.isabs(root)), None)
    return root and os.path.join(root, "redundancy")


def _checksum(key: bytes, data: bytes) -> bytes:
    return hashlib.sha256(key + data).digest()


def load(path: str, key: bytes) -> bytes | None:
    """What `save` wrote under this key; None if the file is missing, damaged or of another key."""
    try:
        found = storage.read_bytes(path)
    except OSError:
        return None
    size = hashlib.sha256().digest_size
    return found[size:] if found[:size] == _checksum(key, found[size:]) else None


def save(path: str, key: bytes, data: bytes) -> None:
    """Writes the data behind a checksum of it and of what it depends on, the key; raises OSError if that fails."""
    storage.write_bytes(path, _checksum(key, data) + data)
