"""Links classes on a cluster of dask.distributed with any number of machines; workers may come and go.

Each class is one task, the largest first. A very large class is divided into several tasks, and small ones share a task. Tasks
read and write the workdir themselves; only their descriptions pass through the scheduler.
"""

import contextlib
import dataclasses
import functools
import json
import logging as std_logging
import os
import pathlib
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from redundancy import storage
from redundancy.runtime.errors import ConfigError, UserError
from redundancy.selection import local, merges, tasks
from redundancy.selection.cluster.dask_cluster import Cluster
from redundancy.selection.tasks import ClassTask

if TYPE_CHECKING:
    from distributed import Client

# Several workers link a class of at least this many images together.
SPLIT_IMAGES = 100_000
# The number of blocks depends only on the size of the class, so that another cluster can continue with the same blocks.
_PAIRS_PER_BLOCK = 2_000_000_000
_CONNECT_S = 10.0
_FORMS = "tcp://HOST:PORT, tls://HOST:PORT, file:PATH (a scheduler file), local or local:WORKERS"


def _address(scheduler: str) -> str | int:
    """Address of the scheduler, or the number of local workers to start.

    Raises:
      ConfigError: `scheduler` has no known form.
      UserError: the scheduler file is missing or holds no address.
    """
    kind, _, rest = scheduler.partition(":")
    if kind == "local":
        if scheduler == "local":
            return local.cores()
        if rest.isdecimal() and int(rest):
            return int(rest)
    elif scheduler.startswith(("tcp://", "tls://")):
        return scheduler
    elif kind == "file" or scheduler.endswith(".json"):
        path = scheduler.removeprefix("file://").removeprefix("file:")
        try:
            return json.loads(pathlib.Path(path).read_text())["address"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(
                f"{path} is not a scheduler file ({error}). Start the scheduler first: dask scheduler "
                f"--scheduler-file {path}"
            ) from error
    raise ConfigError(f"scheduler {scheduler!r} is not known; wanted: {_FORMS}.")


def _worker_environ() -> dict[str, str]:
    """Environment of a single-threaded local worker, set before it imports anything."""
    names = ("NPROC", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {**dict.fromkeys(names, "1"), "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu")}


@contextlib.contextmanager
def _connected(scheduler: str) -> Iterator[tuple["Client", str]]:
    """Yields a client of the scheduler and the scheduler's address; starts and stops local workers.

    Raises:
      UserError: Dask is not installed, or the scheduler cannot be reached.
    """
    address = _address(scheduler)
    try:
        import distributed
    except ImportError as error:
        raise UserError(
            f'Linking on a cluster needs Dask ({error}). Install the extra: pip install "redundancy[distributed]"'
        ) from error
    if str(address).startswith("tls:") and not distributed.Security().get_connection_args("client").get("ssl_context"):
        raise UserError(
            f"{address} needs certificates. Set DASK_DISTRIBUTED__COMM__TLS__CA_FILE, "
            "DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT and DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY."
        )
    # Dask logs lost workers and connections, although it also recovers from them or raises an exception.
    for name in ("distributed", "distributed.client", "distributed.scheduler", "distributed.nanny"):
        std_logging.getLogger(name).setLevel(std_logging.CRITICAL)
    with contextlib.ExitStack() as stack:
        if isinstance(address, int):
            workers = distributed.LocalCluster(
                n_workers=address,
                threads_per_worker=1,
                processes=True,
                memory_limit=0,  # a class may need more than its worker's share of the memory
                dashboard_address=None,
                silence_logs=std_logging.CRITICAL,
                env=_worker_environ(),
                preload=["redundancy.selection.cluster.dask_worker"],
            )
            address = stack.enter_context(workers).scheduler_address
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about versions, which Cluster compares itself
            try:
                client = distributed.Client(address, timeout=_CONNECT_S, set_as_default=False)
            except (OSError, ValueError, TypeError, RuntimeError) as error:
                raise UserError(
                    f"There is no Dask scheduler at {address}, or it does not answer ({error}). Start one with: "
                    "dask scheduler; check host, port and firewall; or link on this machine alone."
                ) from error
        stack.enter_context(client)
        yield client, address


@contextlib.contextmanager
def _marked(folder: str) -> Iterator[str]:
    """Writes a file beside those of the classes, by which workers recognise the folder; yields its name, removes it at exit."""
    marker = f".run-{uuid.uuid4().hex}"
    path = storage.join(merges.scratch(folder), marker)
    storage.write_bytes(path, b"The run that wrote this has not ended, or was killed.\n")
    try:
        yield marker
    finally:
        with contextlib.suppress(Exception):  # a leftover is harmless, and removed when all classes are linked
            storage.remove(path)


def num_blocks(task: ClassTask) -> int:
    """Maximum number of parts into which the work on a very large class is divided."""
    num_pairs = task.num_images * (task.num_images - 1) // 2
    return max(2, -(-num_pairs // _PAIRS_PER_BLOCK))


def _link_split(cluster: Cluster, task: ClassTask, advance: Callable[[int], None]) -> None:
    """Links one class by many calls; calls `advance` with the images done since the last call, which sum to all its images."""
    reported = 0

    def report(images: int) -> None:
        nonlocal reported
        reported += images
        advance(images)

    def run_all(function: Callable, arguments: Sequence[tuple]) -> list:
        out = [None] * len(arguments)

        def done(number: int, result: Any) -> None:
            out[number] = result
            if len(arguments) > 1:  # a part, perhaps of an earlier round
                report(min(task.num_images // len(arguments), task.num_images - 1 - reported))

        cluster.map(function, arguments, done, results=True)
        return out

    tasks.link_split(task, num_blocks(task), run_all)
    cluster.num_finished += 1
    report(task.num_images - reported)


def _absolute(path: str) -> str:
    """The path in a form that is valid in a worker with another current folder."""
    return os.path.abspath(path) if "://" not in path else path


def _anywhere(task: ClassTask) -> ClassTask:
    """The task with paths that are valid in any worker."""
    return dataclasses.replace(task, embeddings=_absolute(task.embeddings), merges=_absolute(task.merges))


def run(
    todo: Sequence[ClassTask],
    finished: Callable[..., None],
    *,
    scheduler: str,
    split_images: int = SPLIT_IMAGES,
) -> None:
    """Runs the tasks on the workers of a scheduler, the largest class first; with `scheduler` bound it is a `link.Engine`.

    The merges are identical to those of `local.run`, for any number of workers, and even if workers join or die.

    Args:
      todo: classes to link, all of one layer.
      finished: called in this thread after each class; during a very large one also with the number of images done since the
        last call.
      scheduler: "tcp://HOST:PORT" (or tls), "file:PATH" of a scheduler file, or "local" or "local:WORKERS" to start
        worker processes on this machine.
      split_images: several workers link a class of at least this many images together.

    Raises:
      ConfigError: `scheduler` has none of these forms.
      UserError: there is no such scheduler, it is lost, Dask is not installed, or workers have another version.
      DataError: a class is damaged or does not fit in a worker's memory; the files of other classes stay.
    """
    _address(scheduler)
    if not todo:
        return
    large = [task for task in todo if task.num_images >= split_images and len(task.labels) == 1]
    whole = [task for task in todo if task not in large]
    large, whole = (sorted(some, key=lambda task: (-task.num_images, task.label)) for some in (large, whole))
    with _connected(scheduler) as (client, address), _marked(_absolute(todo[0].merges)) as marker:
        cluster = Cluster(client, address, marker, sum(len(task.labels) for task in todo))
        cluster.need_workers()
        for task in large:
            _link_split(cluster, _anywhere(task), functools.partial(finished, task))

        def done(number: int, _: None) -> None:
            cluster.num_finished += len(whole[number].labels)
            finished(whole[number])

        cluster.map(tasks.link_class, [(_anywhere(task),) for task in whole], done, results=False)
