"""Divides the work of the stage link into tasks that any engine can run on any machine, and rerun if one is lost.

A task reads its input from the store itself, creates one file, and returns no arrays, so none passes through the engine. A
class is one task (`link_class`) or, if it is very large, many (`link_split`); small ones share a task. Knows nothing of engines.
"""

import dataclasses
import json
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from redundancy import storage
from redundancy.embedding.store import EmbeddingStore
from redundancy.linkage import classes, dissimilarity, pairs
from redundancy.linkage.complete import Linker, Merges
from redundancy.linkage.near import Plan
from redundancy.linkage.pairs import Pairs
from redundancy.runtime.errors import DataError
from redundancy.selection import merges

# Calls the function with each tuple of arguments, on any machine, and returns the results in the same order.
Run = Callable[[Callable[..., Any], Sequence[tuple]], list]

_COLUMNS = ("i", "j", "dissimilarity")
_PART_NS = 4e9  # nanoseconds on one core: least work of a part
_local = threading.local()


@dataclasses.dataclass(frozen=True)
class ClassTask:
    """One class to link, or several small ones.

    Attributes:
      embeddings: folder of the layer's embedding store.
      sha256: checksum of the store's manifest, which identifies the embeddings.
      merges: folder of the layer's merges.
      labels: the classes, ascending.
      sizes: images of each class.
      num_merges: merges wanted of each class.
    """

    embeddings: str
    sha256: str
    merges: str
    labels: tuple[int, ...]
    sizes: tuple[int, ...]
    num_merges: tuple[int, ...]

    @property
    def label(self) -> int:
        """The label of the first class."""
        return self.labels[0]

    @property
    def num_images(self) -> int:
        """Images of all classes."""
        return sum(self.sizes)

    @property
    def identity(self) -> str:
        """JSON that identifies the embeddings, and the number of merges."""
        if len(self.labels) == 1:
            return json.dumps({"embeddings": self.sha256, "label": self.label, "merges": self.num_merges[0]})
        return json.dumps({"embeddings": self.sha256, "labels": self.labels, "merges": self.num_merges})

    @property
    def path(self) -> str:
        """The file that the task creates."""
        return merges.task_path(self.merges, self.labels)

    @property
    def scratch(self) -> str:
        """Folder for the pairs, if several tasks link the class."""
        return storage.join(merges.scratch(self.merges), f"pairs-{self.label:05d}")


def _read(task: ClassTask) -> np.ndarray:
    """The embeddings of the task's classes, class after class, [n, d] float32.

    Each thread reads the footers once and compares them with the manifest. The driver has already checked the complete files.
    """
    key = (task.embeddings, task.sha256)
    if getattr(_local, "key", None) != key:
        _local.store, _local.key = EmbeddingStore(task.embeddings, check=False, sha256=task.sha256), key
    try:
        labels, _, embeddings = _local.store.read_classes(task.labels)
    except BaseException:
        _local.key = None  # reads them again, since the user may repair the files before this thread's next task
        raise
    found = np.searchsorted(labels, task.labels, "right") - np.searchsorted(labels, task.labels)
    wrong = np.flatnonzero(found != task.sizes)
    if len(wrong):
        raise DataError(
            f"{task.embeddings} has {found[wrong[0]]} images of label {task.labels[wrong[0]]}; wanted "
            f"{task.sizes[wrong[0]]}, as when the stage began. Bring the right files back, or delete the store and make it "
            "again."
        )
    return embeddings


def link_class(task: ClassTask, advance: Callable[[float], None] | None = None) -> None:
    """Links the classes of a task and creates their file; does nothing if the file exists.

    Args:
      task: the classes to link.
      advance: for a single class, called from time to time with the share of the work that is done.

    Raises:
      DataError: a class is damaged, or its pairs do not fit in memory.
    """
    _local.split = _local.linker = None
    if merges.read_task(task.path, task.identity) is None:
        _create(task, classes.link(_read(task), task.sizes, task.num_merges, advance))


def _create(task: ClassTask, found: Merges) -> None:
    merges.create_once(task.path, merges.table(np.repeat(np.int32(task.labels), task.num_merges), found), task.identity)


def _linker(task: ClassTask) -> Linker:
    return Linker(dissimilarity.units(_read(task)), task.num_merges[0])


@dataclasses.dataclass(frozen=True)
class Round:
    """The pairs that are computed up to one threshold.

    Attributes:
      above, threshold: dissimilarities above the first and up to the second.
      plan: how the pairs are found.
      num_blocks: number of parts of the work.
    """

    above: float
    threshold: float
    plan: Plan
    num_blocks: int


def _block_file(task: ClassTask, number: int, of: Round, block: int):
    """Path and identity of the file with the pairs of one part of a round."""
    path = storage.join(task.scratch, f"round-{number:02d}-block-{block:05d}-of-{of.num_blocks:05d}.parquet")
    return path, json.dumps([task.identity, of.above, of.threshold, of.plan.order, block, of.num_blocks])


def compute_pairs(task: ClassTask, number: int, of: Round, block: int) -> None:
    """Creates the file with the pairs of one part of a class's round `number`, unless it exists."""
    path, identity = _block_file(task, number, of, block)
    if merges.read_whole(path, _COLUMNS, identity) is not None:
        return
    # Cached, since the next part of the class is likely to run on the same worker.
    if getattr(_local, "split", None) != task:
        _local.linker = _linker(task)
        _local.split = task
    linker = _local.linker
    linker.threshold = of.above
    found = linker.within(of.threshold, (block, of.num_blocks), of.plan).ordered()
    columns = (found.i, found.j, found.dissimilarity)
    merges.create_once(path, pa.table(dict(zip(_COLUMNS, columns, strict=True))), identity)


def continue_class(task: ClassTask, rounds: tuple[Round, ...], num_blocks: int) -> Round | None:
    """Links a class from the pairs that `compute_pairs` has written in the rounds so far.

    Returns:
      The next round, of at most `num_blocks` parts; or None if the class is linked and its file created.

    Raises:
      DataError: the class or the file of a part is missing or damaged, or the pairs do not fit in memory.
    """
    _local.split = _local.linker = None
    if merges.read_task(task.path, task.identity) is not None:
        return None
    linker = _linker(task)
    for number, of in enumerate(rounds):
        blocks = []
        for block in range(of.num_blocks):
            path, identity = _block_file(task, number, of, block)
            table = merges.read_whole(path, _COLUMNS, identity)
            if table is None:
                raise DataError(f'{path} is missing or damaged. Run "redundancy link" again.')
            blocks.append(Pairs(*(table[name].to_numpy() for name in _COLUMNS)))
        linker.feed(pairs.concatenate(blocks), of.threshold)
    if not linker.done:
        threshold = linker.next_threshold()
        if threshold is not None:
            plan = linker.near.plan(threshold)
            if plan.order:
                num_blocks = min(num_blocks, max(2, math.ceil(plan.nanoseconds / _PART_NS)))
            return Round(linker.threshold, threshold, plan, num_blocks)
        linker.link_all()
    _create(task, linker.merges())
    return None


def link_split(task: ClassTask, num_blocks: int, run: Run) -> None:
    """Links one class by many tasks, which alternately compute pairs and link, until there are enough merges.

    The file is identical to that of `link_class`. Files of an interrupted call are reused.

    Args:
      task: the class.
      num_blocks: largest number of parts of the work; must be the same when an interrupted class is continued.
      run: runs the tasks, see `Run`.
    """
    rounds = []
    while (of := run(continue_class, [(task, tuple(rounds), num_blocks)])[0]) is not None:
        run(compute_pairs, [(task, len(rounds), of, block) for block in range(of.num_blocks)])
        rounds.append(of)
    storage.remove(task.scratch)
