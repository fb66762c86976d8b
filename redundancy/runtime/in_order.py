"""Runs tasks in parallel and yields their results in order."""

import collections
import concurrent.futures
import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

K, T = TypeVar("K"), TypeVar("T")


def in_order(tasks: Iterable[tuple[K, Callable[[], T]]], threads: int, ahead: int) -> Iterator[tuple[K, T]]:
    """Yields the key and the result of each task, in the order of the tasks.

    Args:
      tasks: pairs of key and task; consumed as needed.
      threads: number of threads; with 0 each task runs in the calling thread when its result is due.
      ahead: number of tasks to start before waiting for the first result, at least 0.
    """
    pending = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(threads) if threads else contextlib.nullcontext() as pool:
        try:
            for key, task in tasks:
                pending.append((key, pool.submit(task).result if pool else task))
                if len(pending) > ahead:
                    key, result = pending.popleft()
                    yield key, result()
            while pending:
                key, result = pending.popleft()
                yield key, result()
        except BaseException:
            if pool:
                pool.shutdown(cancel_futures=True)
            raise
