"""Caches, in the user's cache folder, results of reading all files of a data set, so that these are read only once.

A damaged cache, or one of other files, is ignored, which only costs time.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from redundancy import storage
from redundancy.storage.cache_folder import cache_folder, load, save


def remembered(identity: Mapping[str, Any], files: Sequence[str], make: Callable[[], np.ndarray]) -> np.ndarray:
    """The result of `make`, from the cache if the files have not changed since it was cached.

    Args:
      identity: JSON that identifies the result, and contains everything besides the files that it depends on.
      files: paths of all files that `make` reads, local or gs://.
      make: () -> integers [n].

    Returns:
      int64 [n], possibly read-only.
    """
    key, folder = _key(identity, files), cache_folder()
    if key is None or folder is None:
        return make().astype(np.int64)
    # The name does not depend on the files, so that a result for changed files replaces the old one.
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
    path = os.path.join(folder, f"{name}.int64")
    if (data := load(path, key)) is not None:
        found = np.frombuffer(data, "<i8")
    else:
        found = make().astype(np.int64)
        # Not cached if a file changed during `make`, which then may have read old or new bytes.
        if _key(identity, files) == key:
            _save(path, key, found)
    return found


def _key(identity: Mapping[str, Any], files: Sequence[str]) -> bytes | None:
    """Checksum of everything that the result depends on; None if changes of the files cannot be detected."""
    try:
        stamps = storage.stamps(files)
    # Any error of a file system is ignored: if the files cannot be read either, their reader reports it better.
    except Exception as error:
        _say("changes of the data set's files cannot be detected", error)
        return None
    if stamps is None:
        return None
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    for file, stamp in zip(files, stamps, strict=True):
        digest.update(json.dumps([file, *stamp]).encode() + b"\n")
    return digest.digest()


def _save(path: str, key: bytes, values: np.ndarray) -> None:
    try:
        save(path, key, values.astype("<i8").tobytes())
    except OSError as error:
        _say(f"{os.path.dirname(path)} cannot be written", error)


def _say(problem: str, error: Exception) -> None:
    first = (str(error) or type(error).__name__).splitlines()[0]
    logging.log_first_n(
        logging.INFO, "%s (%s); opening the data set again will read all of its files again.", 1, problem, first
    )
