"""Caches the programs that JAX compiles in the user's cache folder, so that later starts need not compile them again.

The cache key contains the program, the versions of JAX and its compiler, the devices and this processor; a cached program
computes the same bits. JAX removes the least recently used programs.
"""

import hashlib
import importlib.util
import os

from redundancy.storage.cache_folder import cache_folder

OFF = "REDUNDANCY_NO_PROGRAM_CACHE"  # environment variable; 1 turns the cache off
_BYTES = 4 << 30
_LEAST_S = 0.3  # seconds; programs that compile faster are not cached


def _processor() -> str:
    """Identifies the processor and its features, since different machines may share a home folder."""
    from llvmlite import binding

    text = f"{binding.get_host_cpu_name()} {binding.get_host_cpu_features().flatten()}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def remember() -> None:
    """Turns JAX's compilation cache on; must be called before JAX is imported.

    Does nothing if JAX_COMPILATION_CACHE_DIR is set, if `OFF` is set, if there is no writable folder, or if the package
    filelock, with which JAX limits the folder's size, is not installed.
    """
    root = cache_folder()
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or os.environ.get(OFF, "0") != "0" or root is None:
        return
    if importlib.util.find_spec("filelock") is None:
        return
    folder = os.path.join(root, "programs", _processor())
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK | os.X_OK):
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
        os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(_BYTES))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", str(_LEAST_S))
