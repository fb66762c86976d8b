"""The processes of one run, one on each host: how they start, share work, wait for each other and end together.

They communicate through the key-value store of JAX's coordination service, which process 0 hosts. Devices are used only
for one check at the start. In a run of one process, the functions do not communicate and do not import JAX.
"""

import contextlib
import itertools
import json
import os
import pathlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from absl import logging

from redundancy.runtime import errors, preemption
from redundancy.runtime.errors import ConfigError, Preempted, UserError

T = TypeVar("T")

AUTO, ALONE = "auto", "none"
_GOOGLE = "0x1ae0"  # PCI vendor of TPUs, and of other devices in Google's machines
# Key that JAX's service sets when any process is asked to end.
_NOTICE = "RECEIVED_PREEMPTION_NOTICE"
_FAILED, _HEARD = "redundancy/failed", "redundancy/heard"
_WATCH_S, _HEARD_S = 1.0, 6.0
_OF_A_CONNECTION = ("connect", "socket", "gloo", "peer", "unavailable", "aborted", "deadline", "cancelled")
_heartbeat_s = 100
_turns = itertools.count()
_points = itertools.count(1)


def _joined() -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def count() -> int:
    return sys.modules["jax"].process_count() if _joined() else 1


def index() -> int:
    return sys.modules["jax"].process_index() if _joined() else 0


def is_first() -> bool:
    """Whether this is process 0, which writes the shared files."""
    return index() == 0


def _client():
    from jax._src import distributed  # has no public name; Orbax imports it from here, too

    return distributed.global_state.client


def _get(key: str) -> str | None:
    try:
        return _client().key_value_try_get(key)
    except RuntimeError as error:  # JAX's runtime errors
        if "NOT_FOUND" in str(error):
            return None
        raise


def _wait_for(key: str) -> str:
    pause = 0.02
    while (value := _get(key)) is None:
        time.sleep(pause)
        pause = min(1.0, 1.5 * pause)
    return value


def on_cloud_tpu() -> bool:
    """Whether this is a host of a TPU slice, on which JAX finds the other hosts by itself."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if os.environ.get("JAX_FORCE_TPU_INIT"):
        return True
    if platforms and "tpu" not in platforms.split(","):
        return False
    vendors = pathlib.Path("/sys/bus/pci/devices").glob("*/vendor")
    if not any(vendor.read_text().strip() == _GOOGLE for vendor in vendors):
        return False
    from jax._src import hardware_utils  # has no public name; knows which of Google's devices are TPUs

    return hardware_utils.num_available_tpu_chips_and_device_id()[0] > 0


def start(coordinator: str, num_processes: int | None, process_id: int | None, heartbeat_s: int) -> None:
    """Joins the other processes of the run; returns when all have joined.

    Args:
      coordinator: host:port of process 0, or "auto" on Cloud TPU, Slurm and Kubernetes, where JAX finds it.
      num_processes: number of processes of the run; None with "auto".
      process_id: number of this process, from 0; None with "auto".
      heartbeat_s: seconds after which a silent process counts as dead, which ends all others.

    Raises:
      ConfigError: the others did not join, or JAX found no coordinator.
    """
    import jax

    global _heartbeat_s
    _heartbeat_s = heartbeat_s
    found = {} if coordinator == AUTO else dict(coordinator_address=coordinator, num_processes=num_processes)
    if coordinator != AUTO:
        found["process_id"] = process_id
        # By default the service listens on every address of the machine.
        host = coordinator.rsplit(":", 1)[0]
        if host in ("127.0.0.1", "localhost", "[::1]"):
            found["coordinator_bind_address"] = coordinator
    try:
        jax.distributed.initialize(**found, heartbeat_timeout_seconds=heartbeat_s)
    except (RuntimeError, ValueError) as error:
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"the processes of this run did not find each other ({what}). Wanted: the same command on every host, with "
            "the same --coordinator=HOST:PORT, which process 0 can be reached at, the same --num-processes, and "
            "--process-id 0, 1, … on each; or --coordinator=auto on Cloud TPU, Slurm or Kubernetes."
        ) from error
    if count() == 1:
        # A slice of one host: JAX has replaced the handler of SIGTERM, but there is no other process to notify.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        return
    logging.info("process %d of %d on %s", index(), count(), socket.gethostname())
    _check_together()


def _check_together() -> None:
    """Each process sends its number to all others, since processes may not reach each other even if their devices do."""
    from jax.experimental import multihost_utils

    numbers = multihost_utils.process_allgather(np.int32(index())).tolist()
    if numbers != [*range(count())]:
        raise ConfigError(
            f"the processes of this run do not reach each other: expected the numbers 0 to {count() - 1}, received "
            f"{numbers}. Wanted: one process on every host, each with its own --process-id, or --coordinator=auto on all."
        )


def first(work: Callable[[], T]) -> T:
    """Calls `work` only in process 0; every process returns its result (JSON) or raises its error."""
    if count() == 1:
        return work()
    key = f"redundancy/first/{next(_turns)}"
    if is_first():
        try:
            value = work()
        except (Preempted, UserError) as error:
            _client().key_value_set(key, json.dumps({"error": [type(error).__name__, str(error)]}))
            raise
        _client().key_value_set(key, json.dumps({"value": value}))
        return value
    found = json.loads(_wait_for(key))
    if "error" in found:
        kind, text = found["error"]
        raise getattr(errors, kind, UserError)(text)
    return found["value"]


def together(work: Callable[[], T]) -> T:
    """Calls `work`, this process's share, and returns its result once all processes have finished their shares.

    Raises:
      Preempted: in every process, if any process was asked to end.
    """
    if count() == 1:
        return work()
    turn = f"redundancy/together/{next(_turns)}"
    value, outcome = None, "done"
    try:
        value = work()
    except Preempted:
        outcome = "preempted"
    client = _client()
    client.key_value_set(f"{turn}/arrived/{index()}", outcome)
    if is_first():
        pause = 0.02
        while len(arrived := client.key_value_dir_get(f"{turn}/arrived")) < count():
            time.sleep(pause)
            pause = min(1.0, 1.5 * pause)
        ending = preemption.asked() or any(outcome == "preempted" for _, outcome in arrived)
        client.key_value_set(f"{turn}/go", "preempted" if ending else "done")
    if _wait_for(f"{turn}/go") == "preempted":
        raise Preempted
    return value


def barrier() -> None:
    """Waits until every process has called it; raises as `together`."""
    together(lambda: None)


def ending() -> bool:
    """Whether to save and end now. All processes must call it at the same steps, and all get the same answer."""
    if count() == 1:
        return preemption.asked()
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(next(_points))


class Watch:
    """A thread that ends this process if another process failed, and notifies it if another process was asked to end.

    Args:
      before_end: called before this process is ended, for example to release the lease.
    """

    def __init__(self, before_end: Callable[[], None]):
        self._before_end, self._stopped = before_end, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="watch")

    def start(self) -> None:
        if count() > 1:
            self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(_WATCH_S):
            # If process 0 does not answer, JAX's heartbeat decides whether it is lost.
            with contextlib.suppress(RuntimeError):
                if _get(_NOTICE) is not None:
                    preemption.notice()
                if (found := _get(_FAILED)) is not None:
                    self._end(json.loads(found))

    def _end(self, found: dict[str, Any]) -> None:
        print(f"redundancy: error: process {found['process']} failed: {found['message']}", file=sys.stderr, flush=True)
        with contextlib.suppress(Exception):
            self._before_end()
        _heard()
        os._exit(found["code"])


def _heard() -> None:
    """Records that this process knows of the failure. Process 0 hosts the store, so it waits until all processes know."""
    with contextlib.suppress(RuntimeError):
        _client().key_value_set(f"{_HEARD}/{index()}", "1", allow_overwrite=True)
        deadline = time.monotonic() + _HEARD_S
        while is_first() and time.monotonic() < deadline and len(_client().key_value_dir_get(_HEARD)) < count():
            time.sleep(0.1)


def await_verdict(error: BaseException) -> None:
    """Waits if the end of another process may have caused this error; the watch then ends this process and names that cause."""
    if count() == 1 or isinstance(error, UserError) or not isinstance(error, RuntimeError):
        return
    if any(word in str(error).lower() for word in _OF_A_CONNECTION):
        time.sleep(_heartbeat_s + 10)


def fail(code: int, message: str) -> None:
    """Notifies the other processes that this one ends with an error; they end within seconds, with the same code."""
    if count() == 1:
        return
    with contextlib.suppress(RuntimeError):
        _client().key_value_set(_FAILED, json.dumps({"process": index(), "code": code, "message": message}))
    _heard()


def leave() -> None:
    """Leaves the run once every process has called it."""
    if count() > 1:
        sys.modules["jax"].distributed.shutdown()
