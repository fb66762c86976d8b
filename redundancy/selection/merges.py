"""Merges on disk: while the stage runs, one file for each task; afterwards a few parts and a manifest.

A task links one class or several small ones. Its file is created once, even if tasks are retried, and is either complete or
absent. When all classes are linked, their merges are packed into files such as part-00003-of-00016.parquet, with a row group
for each class, and the files of the tasks are removed.
"""

import concurrent.futures
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from redundancy import storage
from redundancy.embedding.write import part_name
from redundancy.linkage.classes import Linked, ranges
from redundancy.linkage.complete import NO_MERGES, Merges
from redundancy.runtime.errors import DataError
from redundancy.runtime.machine import cores
from redundancy.workdir import read_manifest, write_manifest

_IDENTITY = "identity"
_COLUMNS = ("label", "left", "right", "height", "size")
MAX_PARTS = 16
_READERS = 16


def scratch(folder: str) -> str:
    """Folder that holds the files of the tasks until they are packed."""
    return storage.join(folder, "classes")


def task_path(folder: str, labels: Sequence[int]) -> str:
    """'…/classes/class-00012.parquet', or '…/classes/classes-00012-00345.parquet' for several classes."""
    name = f"class-{labels[0]:05d}" if len(labels) == 1 else f"classes-{labels[0]:05d}-{labels[-1]:05d}"
    return storage.join(scratch(folder), f"{name}.parquet")


def table(labels: np.ndarray, merges: Merges) -> pa.Table:
    """Merges with the label of each, [m] int32."""
    columns = (labels, merges.left, merges.right, merges.height, merges.size)
    return pa.table(dict(zip(_COLUMNS, columns, strict=True)))


def read_whole(path: str, columns: Sequence[str], identity: str) -> pa.Table | None:
    """The columns of a file, or None if it is missing, damaged, or has another identity."""
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


def read_task(path: str, identity: str) -> pa.Table | None:
    """The merges that a task has made, or None if its file is missing, damaged, or has another identity."""
    return read_whole(path, _COLUMNS, identity)


def finished(folder: str, identities: Mapping[str, str]) -> set[str]:
    """The files of tasks that exist, are undamaged, and have the expected identity."""
    there = set(storage.list_dir(scratch(folder)))
    candidates = [path for path in identities if path.rsplit("/", 1)[-1] in there]
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(lambda path: read_task(path, identities[path]) is not None, candidates)
        return {path for path, whole in zip(candidates, found, strict=True) if whole}


def pack(folder: str, identities: Mapping[str, str], manifest: Mapping[str, Any]) -> None:
    """Packs the files of all tasks into parts, writes the manifest and removes the files of the tasks.

    Replaces finished merges in the folder if they were too few; their manifest is removed before their first part.

    Args:
      folder: the layer's merges.
      identities: path of each task's file -> its identity, in the order of the labels.
      manifest: fields of the manifest; "parts" is added.

    Raises:
      DataError: a task's file is missing or damaged, or the merges do not begin with those in the folder.
    """
    earlier = read_manifest(folder, parts=list)
    if earlier is not None and manifest.items() <= earlier.items():
        return  # another command in this workdir has packed them
    labels = sorted(map(int, manifest["classes"]))
    num_parts = min(MAX_PARTS, len(labels))
    shared = json.dumps({name: manifest[name] for name in ("layer", "embeddings", "classes")}, sort_keys=True)

    def of_task(path: str) -> pa.Table:
        if (found := read_task(path, identities[path])) is None:
            raise DataError(f'{path} is missing, damaged or of other embeddings. Run "redundancy link" again.')
        return found

    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        try:
            tables = [table(np.empty(0, np.int32), NO_MERGES), *pool.map(of_task, identities)]
        except DataError:
            # Another command in this workdir may have packed and removed them.
            found = read_manifest(folder)
            if found is not None and manifest.items() <= found.items():
                return
            raise
    everything = pa.concat_tables([each.replace_schema_metadata() for each in tables]).combine_chunks()
    borders = np.searchsorted(everything["label"].to_numpy(), [*labels, labels[-1] + 1])
    if earlier is not None:
        _check_begins(folder, everything, borders, read(folder, earlier["parts"], labels))
        storage.remove(storage.join(folder, "manifest.json"))
    borders = borders.tolist()

    def write(index: int) -> dict[str, str]:
        each = [
            everything.slice(borders[row], borders[row + 1] - borders[row])
            for row in range(index, len(labels), num_parts)
        ]
        name = part_name(index, num_parts)
        each = [of_class for of_class in each if of_class.num_rows] or each[:1]
        return {"file": name, "sha256": storage.write_parquet(storage.join(folder, name), each, {_IDENTITY: shared})}

    with concurrent.futures.ThreadPoolExecutor(cores()) as pool:
        parts = list(pool.map(write, range(num_parts)))
    write_manifest(folder, {**manifest, "parts": parts})
    storage.remove(scratch(folder))


def _check_begins(folder: str, deeper: pa.Table, borders: np.ndarray, before: Linked) -> None:
    """Raises DataError if deeper merges of a class do not begin with the earlier ones. Heights may differ by rounding.

    Args:
      deeper: merges of all classes; those of the k-th class begin at borders[k].
      before: earlier merges of the same classes.
    """
    short = before.num_merges > np.diff(borders)
    rows = ranges(borders[:-1], np.where(short, 0, before.num_merges))
    there = np.repeat(~short, before.num_merges)
    differs = np.zeros(len(rows), bool)
    for name in ("left", "right", "size"):
        differs |= deeper[name].to_numpy()[rows] != getattr(before.merges, name)[there]
    label_of = np.repeat(before.labels, before.num_merges)[there]
    wrong = np.concatenate([before.labels[short], label_of[differs]])
    if len(wrong):
        raise DataError(
            f"{folder}: the new merges of label {wrong[0]} differ from those that are there, from which subsets may have been "
            f"cut: another machine or version rounds differently. Link where they were made; or delete {folder} "
            'and run "redundancy link" again, which leaves the subsets as they are.'
        )


def read(folder: str, parts: Sequence[Mapping[str, str]], labels: Iterable[int]) -> Linked:
    """The merges of each of `labels`.

    Raises:
      DataError: a part differs from the manifest's.
    """

    def of_part(part):
        path = storage.join(folder, part["file"])
        again = f'Delete it and {storage.join(folder, "manifest.json")} and run "redundancy link" again.'
        storage.check_sha256(path, part["sha256"], again)
        return storage.read_parquet(path, _COLUMNS)

    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        everything = pa.concat_tables(pool.map(of_part, parts))
    wanted = np.unique(np.fromiter(labels, np.int64))
    label = everything["label"].to_numpy()
    order = np.argsort(label, kind="stable")
    order = order[np.isin(label[order], wanted)]
    columns = (everything[name].to_numpy()[order] for name in _COLUMNS[1:])
    starts = np.searchsorted(label[order], [*wanted, np.iinfo(np.int64).max])
    return Linked(wanted, starts, Merges(*columns))
