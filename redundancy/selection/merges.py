"""Merges on disk: a file for each linked class while the stage runs, then a few parts and a manifest.

A class's file is created once, even if tasks are retried; it is whole or does not exist. When all classes are linked,
their merges are packed into files such as part-00003-of-00016.parquet, with a row group for each class, and the
classes' files are removed.
"""

import concurrent.futures
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from redundancy import storage
from redundancy.embedding.write import part_name
from redundancy.linkage.complete import Merges
from redundancy.methods.counts import rows_by_class
from redundancy.runtime.errors import DataError
from redundancy.workdir import read_manifest, write_manifest

_IDENTITY = "identity"
_COLUMNS = ("label", "left", "right", "height", "size")
MAX_PARTS = 16
_READERS = 16


def scratch(folder: str) -> str:
    """Folder of the classes' files until they are packed."""
    return storage.join(folder, "classes")


def class_path(folder: str, label: int) -> str:
    """'…/classes/class-00012.parquet'."""
    return storage.join(scratch(folder), f"class-{label:05d}.parquet")


def _table(label: int, merges: Merges) -> pa.Table:
    columns = (np.full(len(merges), label, np.int32), merges.left, merges.right, merges.height, merges.size)
    return pa.table(dict(zip(_COLUMNS, columns, strict=True)))


def read_whole(path: str, columns: Sequence[str], identity: str) -> pa.Table | None:
    """The columns of a file, or None if it is missing, damaged, or of another identity."""
    try:
        table = storage.read_parquet(path, columns)
    except DataError:
        return None
    return table if storage.parquet_metadata(table).get(_IDENTITY) == identity else None


def create_once(path: str, table: pa.Table, identity: str) -> None:
    """Writes a file unless it exists. If several processes write the same file, the first one wins.

    The file's bytes depend only on the table and the identity.
    """
    data = storage.parquet_bytes([table], {_IDENTITY: identity})
    if not storage.create_bytes(path, data) and read_whole(path, table.column_names, identity) is None:
        storage.write_bytes(path, data)  # the existing file is damaged, or of other embeddings


def read_class(path: str, identity: str) -> Merges | None:
    """The merges of a class, or None if its file is missing, damaged, or of another identity."""
    table = read_whole(path, _COLUMNS, identity)
    return None if table is None else Merges(*(table[name].to_numpy() for name in _COLUMNS[1:]))


def create_class(path: str, label: int, merges: Merges, identity: str) -> None:
    """Writes the merges of a class once, see `create_once`."""
    create_once(path, _table(label, merges), identity)


def finished_classes(folder: str, identities: Mapping[int, str]) -> set[int]:
    """Labels whose files exist, are undamaged, and have the wanted identity."""
    there = set(storage.list_dir(scratch(folder)))
    candidates = [label for label in identities if class_path(folder, label).rsplit("/", 1)[-1] in there]
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(lambda label: read_class(class_path(folder, label), identities[label]), candidates)
        return {label for label, merges in zip(candidates, found, strict=True) if merges is not None}


def pack(folder: str, identities: Mapping[int, str], manifest: Mapping[str, Any]) -> None:
    """Packs the files of all classes into parts, writes the manifest and removes the files of the classes.

    Finished merges in the folder, which are too few, are replaced. The manifest is removed before the first part is.

    Args:
      folder: the layer's merges.
      identities: of each class.
      manifest: fields of the manifest; "parts" is added.

    Raises:
      DataError: a class's file is missing or damaged, or the merges do not begin with those in the folder.
    """
    earlier = read_manifest(folder, parts=list)
    if earlier is not None and manifest.items() <= earlier.items():
        return  # another command in the same workdir has packed them
    labels = sorted(identities)
    num_parts = min(MAX_PARTS, len(labels))
    shared = json.dumps({name: manifest[name] for name in ("layer", "embeddings", "classes")}, sort_keys=True)
    parts = []

    def of_class(label):
        path = class_path(folder, label)
        merges = read_class(path, identities[label])
        if merges is None:
            raise DataError(f'{path} is missing, damaged or of other embeddings. Run "redundancy link" again.')
        return _table(label, merges)

    if earlier is not None:
        before = read(folder, earlier["parts"], labels)
        with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
            for label, deeper in zip(labels, pool.map(of_class, labels), strict=True):
                _check_begins(folder, label, deeper, before[label])
        storage.remove(storage.join(folder, "manifest.json"))
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        for index in range(num_parts):
            try:
                tables = list(pool.map(of_class, labels[index::num_parts]))
            except DataError:
                # Another command in the same workdir may have packed and removed them.
                found = read_manifest(folder)
                if found is not None and manifest.items() <= found.items():
                    return
                raise
            tables = [table for table in tables if table.num_rows] or tables[:1]
            name = part_name(index, num_parts)
            sha256 = storage.write_parquet(storage.join(folder, name), tables, {_IDENTITY: shared})
            parts.append({"file": name, "sha256": sha256})
    write_manifest(folder, {**manifest, "parts": parts})
    storage.remove(scratch(folder))


def _check_begins(folder: str, label: int, deeper: pa.Table, before: Merges) -> None:
    """Raises DataError if deeper merges of a class do not begin with the earlier ones; heights may be rounded otherwise."""
    for name in ("left", "right", "size"):
        if not np.array_equal(deeper[name].to_numpy()[: len(before)], getattr(before, name)):
            raise DataError(
                f"{folder}: the deeper merges of label {label} do not begin with those that are there, from which subsets may "
                f"have been cut: another machine or version rounds otherwise. Link where they were made; or delete {folder} "
                'and run "redundancy link" again, which leaves the subsets as they are.'
            )


def read(folder: str, parts: Sequence[Mapping[str, str]], labels: Sequence[int]) -> dict[int, Merges]:
    """The merges of each of `labels`.

    Raises:
      DataError: a part is not the one that the manifest names.
    """

    def table(part):
        path = storage.join(folder, part["file"])
        again = f'Delete it and {storage.join(folder, "manifest.json")} and run "redundancy link" again.'
        storage.check_sha256(path, part["sha256"], again)
        return storage.read_parquet(path, _COLUMNS)

    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        everything = pa.concat_tables(pool.map(table, parts))
    columns = [everything[name].to_numpy() for name in _COLUMNS[1:]]
    rows, none = rows_by_class(everything["label"].to_numpy()), np.empty(0, np.int64)
    return {label: Merges(*(column[rows.get(label, none)] for column in columns)) for label in labels}
