"""Runs calls on the workers of a Dask scheduler, and turns their failures into clear errors.

If a worker dies, its call is repeated on another. No large data passes through the scheduler. Knows nothing of linkage.
"""

import contextlib
import queue
import time
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from absl import logging

from redundancy.runtime.errors import DataError, UserError
from redundancy.selection.cluster import dask_worker
from redundancy.selection.cluster.dask_worker import CallFailed
from redundancy.selection.tasks import ClassTask
from redundancy.workdir import read_manifest

if TYPE_CHECKING:
    from distributed import Client, Future

_TRIES = 4
_RETRY_S = 1.0  # seconds before the second try, doubled for each later one
_LOOK_S = 5.0
_MOST_SUSPECTS = 16
_REMIND_S = 60.0
# Packages whose version may change the last bits of a result, or prevent a task from being sent.
_PACKAGES = ("redundancy", "python", "numpy", "scipy", "numba", "jax", "pyarrow", "dask", "distributed", "cloudpickle")


class Cluster:
    """The workers of one scheduler.

    Args:
      client: client connected to the scheduler.
      address: address of the scheduler, for messages.
      marker: name of the file by which workers recognise the workdir, see `dask_worker.call`.
      num_classes: number of classes to link; the caller counts the linked ones in `num_finished`.
    """

    def __init__(self, client: "Client", address: str, marker: str, num_classes: int):
        self._client, self._address, self._marker = client, address, marker
        self._num_classes, self.num_finished = num_classes, 0
        self._reminded = -float("inf")

    @property
    def _resume(self) -> str:
        return (
            f"{self.num_finished} of this run's {self._num_classes} classes are finished and stay; the same command, "
            "given again, links the others."
        )

    def need_workers(self) -> None:
        """Waits for a worker, and compares package versions on all workers and the scheduler with those of this process.

        Raises:
          UserError: a worker or the scheduler has another version of this package, or none; or the scheduler is lost.
        """
        try:
            while not self._num_workers():
                time.sleep(min(1.0, _LOOK_S))
            self._check_versions()
        except OSError as error:
            raise UserError(self._lost(error)) from error

    def _num_workers(self) -> int:
        """Number of workers; logs from time to time if there are none."""
        number = self._client.scheduler_info(n_workers=0).get("n_workers")
        if number is None:
            raise ConnectionError("it does not answer")
        if number:
            self._reminded = -float("inf")
        elif time.monotonic() - self._reminded >= _REMIND_S:
            self._reminded = time.monotonic()
            logging.warning(
                "link: there are no workers at %s; waiting for some. Start them with: dask worker %s --nthreads 1. If "
                "they come and go, see their logs.",
                self._address,
                self._address,
            )
        return number

    def _check_versions(self) -> None:
        found = self._client.get_versions(packages=_PACKAGES)
        here = found["client"]["packages"]
        there = {f"worker {address}": of["packages"] for address, of in found["workers"].items()}
        there[f"scheduler {self._address}"] = found["scheduler"]["packages"]
        differing = []
        for package in _PACKAGES:
            others = {place: of.get(package) for place, of in there.items() if of.get(package) != here[package]}
            if not others:
                continue
            place, version = next(iter(others.items()))
            more = f" and {len(others) - 1} more" if len(others) > 1 else ""
            differing.append(f"{package} {here[package]} here, {version or 'not installed'} on {place}{more}")
            if package == "redundancy":
                raise UserError(
                    f"Another program runs there: {differing[0]}. Install the same on all and restart them."
                )
        if differing:
            logging.warning("link: tasks may fail, or merges differ in their last bits: %s.", "; ".join(differing))

    def map(
        self, function: Callable, arguments: Sequence[tuple], done: Callable[[int, Any], None], results: bool
    ) -> None:
        """Calls the function with each tuple of arguments, in order.

        A call is repeated if its worker dies, or if it fails with anything but a UserError.

        Args:
          function: a function at the top level of a module.
          arguments: small arguments of each call; the first is the `ClassTask`.
          done: called in this thread after each call, with its index in `arguments` and its result.
          results: whether results are fetched from the workers; else they are None.

        Raises:
          UserError: a call raised a UserError, failed or killed its worker at every try, or the scheduler is lost.
        """
        run, events = uuid.uuid4().hex[:8], queue.SimpleQueue()
        running: dict[Future, tuple[int, int, bool]] = {}
        suspects: list[int] = []

        def submit(number: int, tries: int = 0, alone: bool = False) -> None:
            self._need_client()
            future = self._client.submit(
                dask_worker.call,
                dask_worker.version(),
                arguments[number][0].merges,
                self._marker,
                _RETRY_S * 2**tries if tries else 0.0,
                function,
                arguments[number],
                key=(f"{function.__name__}-{run}", number, tries, int(alone)),
                pure=False,
                priority=-number,
            )
            running[future] = number, tries, alone
            future.add_done_callback(events.put)

        try:
            for number in range(len(arguments)):
                submit(number)
            while running:
                future = self._next(events)
                number, tries, alone = running.pop(future)
                task = arguments[number][0]
                result, error = _outcome(future, results)
                if error is None:
                    done(number, result)
                elif _is_of_memory(error) and not alone and len(suspects) < _MOST_SUSPECTS:
                    # Another task on the same worker may have killed it. Running tasks alone shows which one.
                    logging.warning("%s: %s. It is tried again, last and alone.", _name(task), _short(error))
                    suspects.append(number)
                elif isinstance(error, CallFailed) and tries + 1 < _TRIES:
                    logging.warning("%s: %s. It is tried again.", _name(task), _short(error))
                    submit(number, tries + 1, alone)
                else:
                    raise self._explained(error, task) from error
                if suspects and not running:
                    # Smallest class first: it is the least likely to kill a worker, and the one that does so ends the run.
                    suspects.sort()
                    submit(suspects.pop(), alone=True)
        finally:
            if running:
                with contextlib.suppress(Exception):  # the scheduler may be gone
                    self._client.cancel(list(running))

    def _next(self, events: "queue.SimpleQueue[Future]") -> "Future":
        """Waits for the next future that is done or cancelled."""
        while True:
            try:
                return events.get(timeout=_LOOK_S)
            except queue.Empty:
                self._need_client()
                with contextlib.suppress(OSError):  # if the scheduler does not answer, its futures will soon fail
                    self._num_workers()

    def _need_client(self) -> None:
        if self._client.status in ("closing", "closed"):
            raise UserError(self._lost("the connection is closed"))

    def _lost(self, reason: object) -> str:
        return (
            f"The scheduler {self._address} is gone or was restarted ({reason}). {self._resume} Start a scheduler and "
            "workers first."
        )

    def _explained(self, error: BaseException, task: ClassTask) -> BaseException:
        """The error to raise for a failed call."""
        from distributed import CancelledError

        if isinstance(error, CancelledError):
            return UserError(self._lost(getattr(error, "reason", error)))
        if _is_of_memory(error):
            return DataError(
                f"{_name(task)}: {_short(error)}. Probably it needs more memory than a worker has, unless workers are "
                "stopped from outside. Start fewer workers on each machine, with a higher --memory-limit or none, or "
                f"use machines with more memory. {self._resume}"
            )
        if isinstance(error, CallFailed):
            return UserError(f"{_name(task)} failed {_TRIES} times: {_short(error)}. {self._resume}")
        return error


def _outcome(future: "Future", results: bool) -> tuple[Any, BaseException | None]:
    """The result (fetched if `results`) and the exception of a future that is done or cancelled."""
    if future.status == "finished" and not results:
        return None, None
    try:
        return future.result(), None
    except Exception as error:
        return None, error


def _is_of_memory(error: BaseException) -> bool:
    from distributed import KilledWorker

    return isinstance(error, KilledWorker) or (isinstance(error, CallFailed) and error.memory)


def _short(error: BaseException) -> str:
    """The error in one line, without the text that Dask adds."""
    from distributed import KilledWorker

    if isinstance(error, KilledWorker):
        return f"{error.allowed_failures + 1} workers died while linking it, the last at {error.last_worker.address}"
    return f"on worker {error.worker}: {error.what}" if isinstance(error, CallFailed) else str(error)


def _name(task: ClassTask) -> str:
    """'class "dog" (label 5, 5000 images)'."""
    name = ""
    with contextlib.suppress(UserError, OSError, LookupError):
        name = f'"{read_manifest(task.embeddings, class_names=list)["class_names"][task.label]}" '
    more = f" and {len(task.labels) - 1} more, up to label {task.labels[-1]}" if len(task.labels) > 1 else ""
    return f"class {name}(label {task.label}{more}, {task.num_images} images)"
