"""Links classes on this machine: as many at once as there are cores, the largest first."""

import concurrent.futures
from collections.abc import Callable, Sequence
from typing import Any

import threadpoolctl

from redundancy.runtime.machine import cores
from redundancy.selection import tasks

# A class of at least this size keeps all cores busy by itself, and two at once would need twice the memory.
LARGE = 10_000


def run(todo: Sequence[Any], finished: Callable[..., None], link: Callable[..., None] | None = None) -> None:
    """Links several classes at once, the largest first.

    Uses threads: the compiled code releases the interpreter's lock, and all threads share XLA's threads.

    Args:
      todo: classes to link: tasks, or other objects that have a label and num_images and that `link` accepts.
      finished: called in this thread with each finished class. During a large class it is called several times, also with the
        number of images finished since the last call.
      link: links a class; `tasks.link_class` by default. For a large class its second argument is a function to call with the
        share that is done.

    Raises:
      DataError: a class is damaged or does not fit in memory; the files of other classes stay.
    """
    link = link or tasks.link_class
    todo = sorted(todo, key=lambda task: (-task.num_images, task.label))
    for task in todo:
        if task.num_images >= LARGE:
            _run_large(task, finished, link)
    small = [task for task in todo if task.num_images < LARGE]
    # One BLAS thread for each class: the classes fill the cores.
    with threadpoolctl.threadpool_limits(1, "blas"):
        pool = concurrent.futures.ThreadPoolExecutor(cores())
        futures = {pool.submit(link, task): task for task in small}
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
                finished(futures[future])
        except BaseException as error:
            # After Preempted this returns at once; after other errors it waits for the classes in progress, whose files stay.
            pool.shutdown(wait=isinstance(error, Exception), cancel_futures=True)
            raise
        pool.shutdown()


def _run_large(task: Any, finished: Callable[..., None], link: Callable[..., None]) -> None:
    done = 0

    def share(value: float) -> None:
        nonlocal done
        images = min(task.num_images - 1, int(value * task.num_images))
        finished(task, images - done)
        done = images

    link(task, share)
    finished(task, task.num_images - done)
