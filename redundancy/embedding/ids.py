"""The ids that embeddings were imported with, beside their store: ids.parquet with columns position and id."""

import hashlib

import numpy as np
import pyarrow as pa

from redundancy import storage
from redundancy.errors import DataError
from redundancy.workdir import read_manifest


def path(folder: str) -> str:
    """Where the ids of the store in `folder` lie, if it has any."""
    return storage.join(folder, "ids.parquet")


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
    storage.write_parquet(path(folder), [table], {"sha256": _sha256(ids), "embeddings": content})


def read(folder: str) -> tuple[np.ndarray, pa.Array] | None:
    """The ids of a finished store: positions [n] int64 ascending and their ids [n] string; None where it has none.

    Raises:
      DataError: they are damaged, or of other embeddings than the store's.
    """
    if not storage.exists(path(folder)):
        return None
    table = storage.read_parquet(path(folder), ["position", "id"])
    metadata, ids = storage.parquet_metadata(table), table["id"].combine_chunks()
    checkpoint = (read_manifest(folder) or {}).get("checkpoint")
    content = checkpoint.get("sha256") if isinstance(checkpoint, dict) else None
    if metadata.get("embeddings") != content or metadata.get("sha256") != _sha256(ids):
        raise DataError(
            f"{path(folder)} is damaged, or of other embeddings than {folder}. Delete it and give "
            '"redundancy import" with the ids again.'
        )
    return table["position"].to_numpy(), ids
