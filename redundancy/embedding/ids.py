"""The ids that embeddings were imported with, beside their store: ids.parquet with columns position and id.

ids.json, their checksum, tells that there are ids should ids.parquet be lost. The store's manifest does not: what was
made of the embeddings knows it by its checksum, and ids may come later.
"""

import contextlib
import hashlib

import numpy as np
import pyarrow as pa

from redundancy import storage
from redundancy.runtime.errors import DataError
from redundancy.workdir import need_fields, read_manifest


def path(folder: str) -> str:
    """Where the ids of the store in `folder` lie, if it has any."""
    return storage.join(folder, "ids.parquet")


def _marker(folder: str) -> str:
    return storage.join(folder, "ids.json")


def _sha256(ids: pa.Array) -> str:
    return hashlib.sha256("\n".join(ids.to_pylist()).encode()).hexdigest()


def write(folder: str, positions: np.ndarray, ids: pa.Array, content: str) -> None:
    """Writes the ids of a store.

    Args:
      folder: the store's.
      positions: [n] int64 ascending.
      ids: [n] string.
      content: the checksum of the import, which ties the ids to the store.
    """
    table = pa.table({"position": positions, "id": ids})
    storage.write_json(_marker(folder), {"sha256": _sha256(ids)})
    storage.write_parquet(path(folder), [table], {"sha256": _sha256(ids), "embeddings": content})


def remove(folder: str) -> None:
    """Removes the ids of an import that was begun with some."""
    storage.remove(path(folder))
    storage.remove(_marker(folder))


def may_write(folder: str, ids: pa.Array) -> bool:
    """Whether the store has no ids, or these; ids that are lost or damaged may be written again.

    Raises:
      DataError: as `read`.
    """
    if storage.exists(path(folder)):
        return read(folder)[1].equals(ids)
    if not storage.exists(_marker(folder)):
        return True
    return need_fields(_marker(folder), storage.read_json(_marker(folder)), sha256=str)["sha256"] == _sha256(ids)


def read(folder: str) -> tuple[np.ndarray, pa.Array] | None:
    """The ids of a finished store: positions [n] int64 ascending and their ids [n] string; None where it has none.

    Raises:
      DataError: they are lost, damaged, or of other embeddings than the store's.
    """
    if not storage.exists(path(folder)):
        if storage.exists(_marker(folder)):
            raise DataError(
                f"{path(folder)} is missing, but {_marker(folder)} says that ids were imported. Give "
                f'"redundancy import" with the same ids again, or delete {_marker(folder)} to go on without any.'
            )
        return None
    table = None
    with contextlib.suppress(DataError):
        table = storage.read_parquet(path(folder), ["position", "id"])
    manifest = read_manifest(folder)
    checkpoint = manifest.get("checkpoint") if isinstance(manifest, dict) else None
    content = checkpoint.get("sha256") if isinstance(checkpoint, dict) else None
    if table is None or not _is_whole(table, content):
        raise DataError(
            f"{path(folder)} is damaged, or of other embeddings than {folder}. Delete it and give "
            '"redundancy import" with the ids again.'
        )
    marker = _marker(folder)
    if storage.exists(marker) and storage.read_json(marker) != {"sha256": storage.parquet_metadata(table)["sha256"]}:
        raise DataError(
            f"{path(folder)} holds other ids than {marker} says were imported. Bring the right file back; or delete both "
            'and give "redundancy import" with the ids again.'
        )
    return table["position"].to_numpy(), table["id"].combine_chunks()


def _is_whole(table: pa.Table, content: str | None) -> bool:
    """Whether the ids are those that were written, beside the embeddings of this content."""
    position, ids = table["position"].combine_chunks(), table["id"].combine_chunks()
    if position.type != pa.int64() or not (pa.types.is_string(ids.type) or pa.types.is_large_string(ids.type)):
        return False
    if position.null_count or ids.null_count or (np.diff(position.to_numpy()) <= 0).any():
        return False
    try:
        metadata = storage.parquet_metadata(table)
        return metadata.get("embeddings") == content and metadata.get("sha256") == _sha256(ids)
    except UnicodeDecodeError:
        return False
