"""Remembers what was read out of all files of a data set, in the user's cache folder, so that it is read once.

A damaged cache, or one of other files, is not used: that costs time, nothing else.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from redundancy import storage
from redundancy.cache_folder import cache_folder


def remembered(identity: Mapping[str, Any], files: Sequence[str], make: Callable[[], np.ndarray]) -> np.ndarray:
    """What `make` returns, or returned earlier if the files have not changed since.

    Args:
      identity: JSON that says what is made, and what it depends on beside the files.
      files: paths of all files that `make` reads, local or gs://.
      make: () -> integers [n].

    Returns:
      int64 [n], maybe read-only.
    """
    key, folder = _key(identity, files), cache_folder()
    if key is None or folder is None:
        return make().astype(np.int64)
    # The same name after files have changed: the old result is replaced.
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
    path = os.path.join(folder, f"{name}.int64")
    found = _load(path, key)
    if found is None:
        found = make().astype(np.int64)
        # If a file changed in between, nobody knows which bytes were read.
        if _key(identity, files) == key:
            _save(path, key, found)
    return found


def _key(identity: Mapping[str, Any], files: Sequence[str]) -> bytes | None:
    """Checksum of all that the result depends on; None if changes of the files cannot be detected."""
    try:
        stamps = storage.stamps(files)
    # Whatever a file system raises: if the files cannot be read either, their reader reports it better.
    except Exception as error:
        _say("changes of the data set's files cannot be detected", error)
        return None
    if stamps is None:
        return None
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    for file, stamp in zip(files, stamps, strict=True):
        digest.update(json.dumps([file, *stamp]).encode() + b"\n")
    return digest.digest()


def _load(path: str, key: bytes) -> np.ndarray | None:
    try:
        data = storage.read_bytes(path)
    except OSError:
        return None
    whole = data[:32] == hashlib.sha256(key + data[32:]).digest()
    return np.frombuffer(data, "<i8", offset=32) if whole else None


def _save(path: str, key: bytes, values: np.ndarray) -> None:
    payload = values.astype("<i8").tobytes()
    try:
        storage.write_bytes(path, hashlib.sha256(key + payload).digest() + payload)
    except OSError as error:
        _say(f"{os.path.dirname(path)} cannot be written", error)


def _say(problem: str, error: Exception) -> None:
    first = (str(error) or type(error).__name__).splitlines()[0]
    logging.log_first_n(
        logging.INFO, "%s (%s); opening the data set again will read all of its files again.", 1, problem, first
    )
