"""The names of the images of a store, in a file beside it: ids.parquet with columns position and id.

Names are imported ids, or paths of files relative to their folder of images. If a name is not valid UTF-8, the column is
binary and holds the bytes of the file system.

ids.json holds the checksum of the ids, so that a lost ids.parquet is noticed. The store's manifest does not mention them,
because ids may be added later, and artifacts made from the embeddings refer to the manifest by its checksum.
"""

import contextlib
import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from redundancy import storage
from redundancy.runtime.errors import ConfigError, DataError
from redundancy.workdir import need_fields, read_manifest

_AGAIN = 'give "redundancy import" with the ids again'
_OF_FILES = 'Without them, "redundancy export" takes the names of files from the data set of its --config.'


def path(folder: str) -> str:
    """Path of the ids of the store in `folder`, whether or not it has any."""
    return storage.join(folder, "ids.parquet")


def _marker(folder: str) -> str:
    return storage.join(folder, "ids.json")


def _sha256(ids: pa.Array) -> str:
    return hashlib.sha256(
        "\n".join(ids.to_pylist()).encode() if _is_text(ids) else b"\n".join(ids.to_pylist())
    ).hexdigest()


def _is_text(ids: pa.Array) -> bool:
    return pa.types.is_string(ids.type) or pa.types.is_large_string(ids.type)


def of_files(names: Sequence[str]) -> pa.Array:
    """File names, given as Python strings, as an array [n]: string, or binary if one is not valid UTF-8."""
    try:
        return pa.array(names, pa.string())
    except UnicodeEncodeError:
        return pa.array([os.fsencode(name) for name in names], pa.binary())


def content_of(manifest: Any) -> Any:
    """The checksum of the imported content in a store's manifest; None if the store was not imported."""
    checkpoint = manifest.get("checkpoint") if isinstance(manifest, dict) else None
    return checkpoint.get("sha256") if isinstance(checkpoint, dict) else None


def tie(manifest: Any) -> Any:
    """The checksum that ties names to a store: of the imported content, or of the data set; None without either."""
    fingerprint = manifest.get("fingerprint") if isinstance(manifest, dict) else None
    return content_of(manifest) or (fingerprint.get("sha256") if isinstance(fingerprint, dict) else None)


def write(folder: str, positions: np.ndarray, ids: pa.Array, content: str) -> None:
    """Writes the ids of a store.

    Args:
      folder: the store's folder.
      positions: [n] int64 ascending.
      ids: [n] string or binary.
      content: result of `tie` for the store.
    """
    table, sha256 = pa.table({"position": positions, "id": ids}), _sha256(ids)
    storage.write_json(_marker(folder), {"sha256": sha256})
    storage.write_parquet(path(folder), [table], {"sha256": sha256, "embeddings": content})


def remove(folder: str) -> None:
    """Removes ids that an unfinished import may have written."""
    storage.remove(path(folder))
    storage.remove(_marker(folder))


def may_write(folder: str, ids: pa.Array) -> bool:
    """Whether the store has no ids or the same ids, even if the file is lost; raises as `read`."""
    if storage.exists(path(folder)):
        return read(folder)[1].equals(ids)
    if not storage.exists(_marker(folder)):
        return True
    return need_fields(_marker(folder), storage.read_json(_marker(folder)), sha256=str)["sha256"] == _sha256(ids)


def read(folder: str) -> tuple[np.ndarray, pa.Array] | None:
    """The ids of a finished store: positions [n] int64 ascending and their ids [n] string or binary; None if it has none.

    Raises:
      DataError: the ids are lost, damaged, or belong to other embeddings.
    """
    file, marker = path(folder), _marker(folder)
    if not storage.exists(file):
        if storage.exists(marker):
            raise DataError(
                f'{file} is missing, but {marker} says that there were names. Give "redundancy import" with the same ids '
                f"again, or delete {marker} to go on without any. {_OF_FILES}"
            )
        return None
    table = None
    with contextlib.suppress(DataError):
        table = storage.read_parquet(file, ["position", "id"])
    content = tie(read_manifest(folder))
    if table is None or not _is_whole(table, content):
        raise DataError(f"{file} is damaged, or of other embeddings than {folder}. Delete it and {_AGAIN}. {_OF_FILES}")
    if storage.exists(marker) and storage.read_json(marker) != {"sha256": storage.parquet_metadata(table)["sha256"]}:
        raise DataError(
            f"{file} holds other ids than {marker} says were imported. Bring the right file back; or delete both and {_AGAIN}. "
            f"{_OF_FILES}"
        )
    return table["position"].to_numpy(), table["id"].combine_chunks()


def at(folder: str, positions: np.ndarray) -> pa.Array | None:
    """The ids of the images at these positions [n] int64, [n] string or binary; None if the store has none.

    Raises:
      DataError: as `read`, or a position has no id.
    """
    if (found := read(folder)) is None:
        return None
    known, ids = found
    if not np.isin(positions, known).all():
        raise DataError(f"{path(folder)} has no id for some positions. Delete it and {_AGAIN}. {_OF_FILES}")
    return ids.take(pa.array(np.searchsorted(known, positions)))


def lines(names: pa.Array, null: bool = False) -> bytes:
    """The names, each followed by a line break or, with `null`, by a null byte.

    Raises:
      ConfigError: a name contains a line break, and `null` is False.
    """
    values = [value if isinstance(value, bytes) else str(value).encode() for value in names.to_pylist()]
    broken = [value for value in values if b"\n" in value or b"\r" in value]
    if broken and not null:
        raise ConfigError(
            f"--format txt has a name a line, and {len(broken)} names hold line breaks, for example {broken[0][:200]!r}. Give "
            "--null, which ends each name with a null byte, or --format csv or parquet."
        )
    end = b"\0" if null else b"\n"
    return b"".join(value + end for value in values)


def _is_whole(table: pa.Table, content: str | None) -> bool:
    """Whether the table holds all ids that were written for the embeddings with this content."""
    position, ids = table["position"].combine_chunks(), table["id"].combine_chunks()
    if position.type != pa.int64() or not (_is_text(ids) or pa.types.is_binary(ids.type)):
        return False
    if position.null_count or ids.null_count or (np.diff(position.to_numpy()) <= 0).any():
        return False
    try:
        metadata = storage.parquet_metadata(table)
        return metadata.get("embeddings") == content and metadata.get("sha256") == _sha256(ids)
    except UnicodeDecodeError:
        return False
