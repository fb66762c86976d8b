"""Programs that JAX has compiled, kept in the user's cache folder, so that a later start need not compile them again.

What is kept depends on the program, the versions of JAX and its compiler, the devices and this processor; a program that is
read back computes the same bits. JAX removes those that were used longest ago.
"""

import hashlib
import importlib.util
import os

from redundancy.storage.cache_folder import cache_folder

OFF = "REDUNDANCY_NO_PROGRAM_CACHE"  # set to 1: nothing is kept
_BYTES = 4 << 30
_LEAST_S = 0.3  # of compilation; what takes less is compiled again


def _processor() -> str:
    """Names the processor and what it can do: a home folder may be shared by machines that differ."""
    from llvmlite import binding

    text = f"{binding.get_host_cpu_name()} {binding.get_host_cpu_features().flatten()}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def remember() -> None:
    """Lets JAX keep what it compiles from now on; call it before JAX is imported.

    Does nothing if the variable JAX_COMPILATION_CACHE_DIR says where, if `OFF` is set, if there is no folder to write to, or
    without the package filelock, which bounds the folder's size.
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
