"""Remembers what had to be read out of all files of a data set, so that opening it again need not read them again.

Lies in the user's cache folder. Whatever is wrong there costs time alone: what is not whole, or of other bytes, is not used.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from redundancy import storage
from redundancy.runtime.cache_folder import cache_folder


def remembered(identity: Mapping[str, Any], files: Sequence[str], make: Callable[[], np.ndarray]) -> np.ndarray:
    """What `make` returns, or returned earlier where the files have not changed since.

    Args:
      identity: JSON that says what is made, and what it depends on beside the files.
      files: paths of all files that `make` reads, local or gs://.
      make: () -> integers [n].

    Returns:
      int64 [n], maybe read-only.
    """
    key, path = _key(identity, files), _path(identity)
    if key is None or path is None:
        return make().astype(np.int64)
    found = _load(path, key)
    if found is None:
        found = make().astype(np.int64)
        # Where a file changed in between, nobody knows which bytes were read.
        if _key(identity, files) == key:
            _save(path, key, found)
    return found


def _path(identity: Mapping[str, Any]) -> str | None:
    """The file in the cache folder, None where the user has none; changed files of a data set find the same one."""
    folder = cache_folder()
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
    return folder and os.path.join(folder, f"{name}.int64")


def _key(identity: Mapping[str, Any], files: Sequence[str]) -> bytes | None:
    """Checksum of all that the result depends on; None where it cannot be told whether the files have changed."""
    try:
        stamps = storage.stamps(files)
    # Whatever a file system raises: where the files cannot be read either, their reader tells it better.
    except Exception as error:
        _say("it cannot be told whether the data set's files have changed", error)
        return None
    if stamps is None:
        return None
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    for file, stamp in zip(files, stamps, strict=True):
        digest.update(json.dumps([file, *stamp]).encode() + b"\n")
    return digest.digest()


def _checksum(key: bytes, payload: bytes) -> bytes:
    return hashlib.sha256(key + payload).digest()


def _load(path: str, key: bytes) -> np.ndarray | None:
    try:
        data = storage.read_bytes(path)
    except OSError:
        return None
    size = hashlib.sha256().digest_size
    if data[:size] != _checksum(key, data[size:]):
        return None
    return np.frombuffer(data, "<i8", offset=size)


def _save(path: str, key: bytes, values: np.ndarray) -> None:
    payload = values.astype("<i8").tobytes()
    try:
        storage.write_bytes(path, _checksum(key, payload) + payload)
    except OSError as error:
        _say(f"{os.path.dirname(path)} cannot be written", error)


def _say(problem: str, error: Exception) -> None:
    first = (str(error) or type(error).__name__).splitlines()[0]
    logging.log_first_n(
        logging.INFO, "%s (%s); opening the data set again will read all of its files again.", 1, problem, first
    )
