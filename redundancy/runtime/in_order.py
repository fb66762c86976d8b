"""Tasks that run at once, whose results come in order."""

import collections
import concurrent.futures
import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

K, T = TypeVar("K"), TypeVar("T")


def in_order(tasks: Iterable[tuple[K, Callable[[], T]]], threads: int, ahead: int) -> Iterator[tuple[K, T]]:
    """Yields the results of tasks in their order, each with its key.

    Args:
      tasks: key and task; taken from the iterator as they are needed.
      threads: that run them; with 0 each runs here, when its turn comes.
      ahead: tasks that are taken before the result of the first is waited for, at least 0.
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
