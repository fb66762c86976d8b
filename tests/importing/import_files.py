"""Files of embeddings, labels and ids, and imports of them."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from redundancy import storage
from redundancy.embedding import store
from redundancy.importing.stage import Request, import_embeddings
from redundancy.runtime.errors import UserError
from redundancy.workdir import Workdir

N, D = 60, 5


def rows(n=N, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, D)).astype(np.float32), rng.permutation(np.arange(n) % 4)


class Files:
    """Writes the files of an import below a folder and imports them into the workdir `w` there."""

    def __init__(self, folder):
        self.folder = folder
        self.workdir = Workdir(str(folder / "w"))
        self.store = self.workdir.embeddings("end")
        self.embeddings, self.labels = rows()
        self.write("E.npy", self.embeddings)
        self.write("Y.npy", self.labels)

    def path(self, name):
        return str(self.folder / name)

    def write(self, name, content):
        path = self.path(name)
        if name.endswith(".npy"):
            np.save(path, content)
        elif isinstance(content, pa.Table):
            pq.write_table(content, path)
        else:
            storage.write_text(path, content if isinstance(content, str) else "".join(f"{x}\n" for x in content))
        return path

    def request(self, **fields):
        """Of E.npy and Y.npy where nothing else is given."""
        fields.setdefault("embeddings", self.path("E.npy"))
        fields.setdefault("labels", self.path("Y.npy"))
        return Request(**fields)

    def bring(self, config=None, **fields):
        import_embeddings(self.request(**fields), self.workdir, config)
        return store.EmbeddingStore(self.store)

    def refused(self, what, kind=UserError, config=None, **fields):
        """The import raises an error that says `what`, and leaves nothing behind."""
        before = storage.list_dir(self.store)
        with pytest.raises(kind, match=what):
            import_embeddings(self.request(**fields), self.workdir, config)
        assert storage.list_dir(self.store) == before


def check(opened, embeddings, labels):
    """The store holds these, the row number being the position."""
    positions, found = opened.labels()
    assert (positions == np.arange(len(labels))).all()
    assert (found == labels).all()
    for label in np.unique(labels).tolist():
        of_class, stored = opened.read_class(label)
        assert (of_class == np.flatnonzero(labels == label)).all()
        assert (stored == embeddings[of_class].astype(np.float32)).all()


def table(embeddings, labels, kind, **more):
    values = pa.array(embeddings.reshape(-1))
    if kind == "fixed":
        lists = pa.FixedSizeListArray.from_arrays(values, embeddings.shape[1])
    else:
        width = {"list": np.int32, "large": np.int64}[kind]
        offsets = pa.array(np.arange(len(embeddings) + 1, dtype=width) * embeddings.shape[1])
        lists = {"list": pa.ListArray, "large": pa.LargeListArray}[kind].from_arrays(offsets, values)
    return pa.table({"emb": lists, "cls": labels, **more})


def write_parts(files, whole, starts):
    """A folder of Parquet files of these rows each, in groups of 11."""
    os.mkdir(files.path("parts"))
    for number, (start, stop) in enumerate(starts):
        pq.write_table(whole.slice(start, stop - start), files.path(f"parts/p{number}.parquet"), row_group_size=11)
