"""The work of the stage link, divided into tasks that any engine may run on any machine, and repeat if one was lost.

A task reads its input from the store itself, creates one file, and returns at most a number: no array passes through an
engine. A class is one task (`link_class`) or, if it is very large, many (`link_split`). Knows nothing of engines.
"""

import dataclasses
import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from redundancy import storage
from redundancy.embedding.store import EmbeddingStore
from redundancy.linkage import complete, dissimilarity, pairs
from redundancy.linkage.complete import Linker
from redundancy.linkage.pairs import Pairs
from redundancy.runtime.errors import DataError
from redundancy.selection import merges

# Calls the function with each tuple of arguments, on any machine, and returns the results in the same order.
Run = Callable[[Callable[..., Any], Sequence[tuple]], list]

_COLUMNS = ("i", "j", "dissimilarity")
_ALIGNED = 512
_local = threading.local()


@dataclasses.dataclass(frozen=True)
class ClassTask:
    """One class to link.

    Attributes:
      embeddings: folder of the layer's embedding store.
      sha256: checksum of the store's manifest, which identifies the embeddings.
      merges: folder of the layer's merges.
      label: the class.
      num_images: images of the class.
      num_merges: merges wanted.
    """

    embeddings: str
    sha256: str
    merges: str
    label: int
    num_images: int
    num_merges: int

    @property
    def identity(self) -> str:
        """JSON that identifies the embeddings that are linked, and the number of merges."""
        return json.dumps({"embeddings": self.sha256, "label": self.label, "merges": self.num_merges})

    @property
    def path(self) -> str:
        """The file that the task creates."""
        return merges.class_path(self.merges, self.label)

    @property
    def scratch(self) -> str:
        """Folder of the pairs, if several tasks link the class."""
        return storage.join(merges.scratch(self.merges), f"pairs-{self.label:05d}")


def _read(task: ClassTask) -> np.ndarray:
    """The class's embeddings, [n, d] float32.

    Each thread reads footers once and compares them with the manifest. The driver has checked every whole file.
    """
    key = (task.embeddings, task.sha256)
    if getattr(_local, "key", None) != key:
        _local.store, _local.key = EmbeddingStore(task.embeddings, check=False, sha256=task.sha256), key
    try:
        embeddings = _local.store.read_class(task.label)[1]
    except BaseException:
        _local.key = None  # the user may repair the files before this thread's next task
        raise
    if len(embeddings) != task.num_images:
        raise DataError(
            f"{task.embeddings} has {len(embeddings)} images of label {task.label}; wanted {task.num_images}, as when "
            "the stage began. Bring the right files back, or delete the store and make it again."
        )
    return embeddings


def link_class(task: ClassTask, advance: Callable[[float], None] | None = None) -> None:
    """Links one class and creates its file; does nothing if the file exists.

    Args:
      task: the class.
      advance: called now and then with the share of the work that is done.

    Raises:
      DataError: the class is damaged, or its pairs do not fit in memory.
    """
    _local.split = _local.linker = None
    if merges.read_class(task.path, task.identity) is None:
        found = complete.complete_linkage(_read(task), task.num_merges, advance)
        merges.create_class(task.path, task.label, found, task.identity)


def _linker(task: ClassTask) -> Linker:
    return Linker(dissimilarity.units(_read(task)), task.num_merges)


def _block_file(task: ClassTask, number: int, above: float, threshold: float, block: int, num_blocks: int):
    """Path and identity of the pairs of one block of rows."""
    path = storage.join(task.scratch, f"round-{number:02d}-block-{block:05d}-of-{num_blocks:05d}.parquet")
    return path, json.dumps([task.identity, above, threshold, block, num_blocks])


def _rows(n: int, block: int, num_blocks: int) -> tuple[int, int]:
    """The block's rows low ≤ i < high of n: about the same number of pairs i < j in each block."""

    def border(number):
        row = n * (1 - (1 - number / num_blocks) ** 0.5)
        return n if number == num_blocks else min(n, int(row) // _ALIGNED * _ALIGNED)

    return border(block), border(block + 1)


def compute_pairs(task: ClassTask, number: int, above: float, threshold: float, block: int, num_blocks: int) -> None:
    """Creates the file of one block's pairs with above < dissimilarity ≤ threshold, unless it is there."""
    path, identity = _block_file(task, number, above, threshold, block, num_blocks)
    if merges.read_whole(path, _COLUMNS, identity) is not None:
        return
    # The next block of the class is likely to come to the same worker.
    if getattr(_local, "split", None) != task:
        _local.linker = _linker(task)
        _local.split = task
    linker = _local.linker
    low, high = _rows(len(linker.units), block, num_blocks)
    linker.threshold = above
    found = linker.within(threshold, (low, high)).ordered() if low < high else Pairs.none()
    columns = (found.i, found.j, found.dissimilarity)
    merges.create_once(path, pa.table(dict(zip(_COLUMNS, columns, strict=True))), identity)


def continue_class(task: ClassTask, thresholds: tuple[float, ...], num_blocks: int) -> float | None:
    """Links a class from the pairs that `compute_pairs` wrote up to each of the thresholds.

    Returns:
      The next threshold up to which pairs are needed; None if the class is linked and its file created.

    Raises:
      DataError: a block's file or the class is missing or damaged, or its pairs do not fit in memory.
    """
    _local.split = _local.linker = None
    if merges.read_class(task.path, task.identity) is not None:
        return None
    linker = _linker(task)
    for number, threshold in enumerate(thresholds):
        blocks = []
        for block in range(num_blocks):
            path, identity = _block_file(task, number, linker.threshold, threshold, block, num_blocks)
            table = merges.read_whole(path, _COLUMNS, identity)
            if table is None:
                raise DataError(f'{path} is missing or damaged. Run "redundancy link" again.')
            blocks.append(Pairs(*(table[name].to_numpy() for name in _COLUMNS)))
        linker.feed(pairs.concatenate(blocks), threshold)
    if not linker.done:
        threshold = linker.next_threshold()
        if threshold is not None:
            return threshold
        linker.link_all()
    merges.create_class(task.path, task.label, linker.merges(), task.identity)
    return None


def link_split(task: ClassTask, num_blocks: int, run: Run) -> None:
    """Links one class as many tasks: blocks of rows of its pairs, then the linkage, until there are enough merges.

    The file is identical to that of `link_class`. Files of an interrupted call are used.

    Args:
      task: the class.
      num_blocks: tasks that the pairs are cut into; the same when a class is continued.
      run: runs the tasks, see `Run`.
    """
    thresholds = []
    while (threshold := run(continue_class, [(task, tuple(thresholds), num_blocks)])[0]) is not None:
        above = thresholds[-1] if thresholds else complete.BELOW_ALL
        number = len(thresholds)
        run(compute_pairs, [(task, number, above, threshold, block, num_blocks) for block in range(num_blocks)])
        thresholds.append(threshold)
    storage.remove(task.scratch)
