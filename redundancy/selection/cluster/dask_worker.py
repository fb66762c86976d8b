"""Runs on a worker for `distributed`: checks the worker's version and workdir, limits its threads, calls the function.

Workers import this module, so it imports only what the tasks need. Knows nothing of scheduling.
"""

import functools
import hashlib
import os
import pathlib
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import threadpoolctl

import redundancy
from redundancy import storage
from redundancy.runtime.errors import DataError, UserError
from redundancy.selection import merges


@functools.cache
def version() -> str:
    """This package's version and a digest of its sources, since two checkouts of the same version may differ.

    The configs are not included, since they lie in redundancy/ only in an installed wheel.
    """
    root = pathlib.Path(redundancy.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        if path.parent == root / "configs":
            continue
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return f"{redundancy.__version__}, sources {digest.hexdigest()[:8]}"


class CallFailed(Exception):
    """A call's exception as text (machine, type, message and stack trace), since not every exception can be sent.

    `memory` says whether the call ran out of memory.
    """

    def __init__(self, worker: str, what: str, memory: bool, trace: str):
        super().__init__(worker, what, memory, trace)
        self.worker, self.what, self.memory, self.trace = worker, what, memory, trace

    def __str__(self):
        return f"on {self.worker}:\n{self.trace}"


def dask_setup(_) -> None:
    """Called by Dask when a local worker starts. Ignores Ctrl-C, which also reaches workers: the driver ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def use_cores(number: int) -> None:
    """Limits JAX's and Numba's threads in this process to `number`, and keeps JAX off accelerators unless JAX_PLATFORMS is set.

    Has no effect once JAX has been used, since XLA then has its pool of threads.
    """
    os.environ.setdefault("NPROC", str(number))  # an undocumented variable that XLA reads
    if "JAX_PLATFORMS" not in os.environ:
        os.environ["JAX_PLATFORMS"] = "cpu"
        if "jax" in sys.modules:  # JAX has already read the variable
            sys.modules["jax"].config.update("jax_platforms", "cpu")
    if "numba" in sys.modules:
        sys.modules["numba"].set_num_threads(1)


@functools.cache
def _need_marker(folder: str, marker: str) -> None:
    path = storage.join(merges.scratch(folder), marker)
    if not storage.exists(path):
        raise DataError(
            f"The worker on {socket.gethostname()} does not see {folder} as the command does: there is no {path}. "
            "All workers must see one workdir: use gs://BUCKET/PATH, or a shared file system that is mounted at the "
            "same path everywhere."
        )


def call(wanted: str, folder: str, marker: str, wait_s: float, function: Callable, arguments: tuple) -> Any:
    """Calls `function(*arguments)`.

    Args:
      wanted: the driver's `version()`.
      folder: folder of the merges that are being made.
      marker: name of a file that the driver has written beside the files of the classes.
      wait_s: seconds to wait before a repeated call.
      function: a function at the top level of a module, so that it can be sent by name.
      arguments: small arguments of the function.

    Raises:
      UserError: from `function`; or this worker has another version of this package or does not see the workdir.
      CallFailed: the function raised any other exception.
    """
    from distributed import get_worker

    if wanted != version():
        raise UserError(
            f"The worker on {socket.gethostname()} has redundancy {version()}; the command has {wanted}. Install the "
            "same on all, restart the workers, and run the same command again."
        )
    time.sleep(wait_s)
    try:
        storage.network_is_there()
        _need_marker(folder, marker)
        use_cores(get_worker().state.nthreads)
        with threadpoolctl.threadpool_limits(1):
            return function(*arguments)
    except UserError:
        raise
    except Exception as error:
        what, memory = f"{type(error).__name__}: {error}".rstrip(". "), isinstance(error, MemoryError)
        failed = CallFailed(socket.gethostname(), what, memory, traceback.format_exc())
    raise failed  # outside of the handler, so that the original exception is not sent along as its context
