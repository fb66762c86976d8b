"""The work of the stage link, cut into tasks that any engine may run, anywhere, and again where one was lost.

A task reads what it needs from the store itself, creates one file once, and returns next to nothing: no array passes
through an engine. Knows nothing of engines.
"""

import dataclasses
import json
import threading

from redundancy.embedding.store import EmbeddingStore
from redundancy.selection import linkage, merges


@dataclasses.dataclass(frozen=True)
class ClassTask:
    """One class to link.

    Attributes:
      embeddings: folder of the layer's embedding store.
      sha256: of the store's manifest, which tells whose embeddings these are.
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
        """JSON that tells of which embeddings these merges are, and how many."""
        fields = {"embeddings": self.sha256, "label": self.label, "merges": self.num_merges}
        return json.dumps(fields)

    @property
    def path(self) -> str:
        """The file that the task creates."""
        return merges.class_path(self.merges, self.label)


_local = threading.local()


def _read(task: ClassTask):
    """The class's embeddings, [n, d] float32. Footers are read once by each thread; checksums were by the driver."""
    key = (task.embeddings, task.sha256)
    if getattr(_local, "key", None) != key:
        _local.store, _local.key = EmbeddingStore(task.embeddings, check=False), key
    return _local.store.read_class(task.label)[1]


def link_class(task: ClassTask) -> None:
    """Links one class and creates its file; does nothing where it is there already.

    Raises:
      DataError: the class is damaged, or its pairs do not fit in memory.
    """
    if merges.read_class(task.path, task.identity) is None:
        found = linkage.complete_linkage(_read(task), task.num_merges)
        merges.create_class(task.path, task.label, found, task.identity)
