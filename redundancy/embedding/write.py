"""Writes the embedding store: independent Parquet parts, and a manifest.

The folder holds files such as part-00003-of-00016.parquet with columns position int64, label int32 and embedding, a
fixed-size list of float32. Rows are sorted by (label, position), and each label is a row group, so that a class can be read
without the rest of the part. manifest.json is written last. Embeddings of any model can be stored in this form.

Until the manifest is written, a record beside each part, such as part-00003-of-00016.json, holds the part's entry for the
manifest. It is written with the part, so that the part need not be read again.
"""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from redundancy import storage, workdir
from redundancy.runtime.errors import DataError

_IDENTITY = "identity"


def part_name(index: int, num_parts: int) -> str:
    """'part-00003-of-00016.parquet'."""
    return f"part-{index:05d}-of-{num_parts:05d}.parquet"


def part_positions(positions: np.ndarray, num_parts: int) -> list[np.ndarray]:
    """The positions of each part: contiguous chunks of ascending int64 `positions`, whose sizes differ by at most one.

    No part is empty: if there are fewer positions than `num_parts`, there are fewer parts.
    """
    return np.array_split(positions, min(num_parts, len(positions))) if len(positions) else []


def wrong_rows(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of [n, d] float32 without a cosine, [m] int64 ascending, and whether each is zero, not infinite or NaN, [m] bool."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        squares = np.einsum("nd,nd->n", embeddings, embeddings)
    # A first test only: squares of very large or small numbers may also be infinite or 0.
    rows = np.flatnonzero(~(np.isfinite(squares) & (squares > 0)))
    some = embeddings[rows]
    finite = np.isfinite(some).all(axis=1)
    wrong = ~(finite & some.any(axis=1))
    return rows[wrong], finite[wrong]


def check_cosines(embeddings: np.ndarray, positions: np.ndarray, where: str, remedy: str) -> None:
    """Raises DataError if an embedding has no cosine; names the first position."""
    wrong, finite = wrong_rows(embeddings)
    if not len(wrong):
        return
    first = np.argmin(positions[wrong])
    what = "is a zero vector" if finite[first] else "holds NaN or infinity"
    raise DataError(
        f"{where}: the embedding of position {positions[wrong[first]]} {what} ({len(wrong)} such of {len(positions)} rows); "
        f"wanted finite numbers, not all 0, or it has no cosine. {remedy}"
    )


def write_part(
    folder: str,
    index: int,
    num_parts: int,
    positions: np.ndarray,
    labels: np.ndarray,
    embeddings: np.ndarray,
    identity: Mapping[str, Any],
) -> None:
    """Writes one part atomically.

    Args:
      folder: the store's folder.
      index: number of the part, 0…num_parts-1.
      num_parts: number of parts of the store.
      positions: [n] int64, n at least 1.
      labels: [n] int32.
      embeddings: [n, d] float32.
      identity: JSON values that identify the embeddings: layer, checkpoint, fingerprint.

    Raises:
      DataError: an embedding holds NaN or infinity, or is zero.
    """
    positions, labels = np.asarray(positions, np.int64), np.asarray(labels, np.int32)
    embeddings = np.asarray(embeddings, np.float32)
    if embeddings.ndim != 2 or not len(positions) == len(labels) == len(embeddings) > 0:
        raise ValueError(
            f"shapes {positions.shape}, {labels.shape}, {embeddings.shape}; wanted [n], [n], [n, d], n > 0"
        )
    check_cosines(
        embeddings,
        positions,
        f'layer "{identity["layer"]}"',
        "Look at that image; if many are wrong the training has diverged: lower the learning rate and train again.",
    )
    order = np.lexsort((positions, labels))
    if (order[1:] < order[:-1]).any():  # otherwise no copy is needed
        positions, labels, embeddings = positions[order], labels[order], embeddings[order]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1)), embeddings.shape[1])
    table = pa.table({"position": positions, "label": labels, "embedding": vectors})
    borders = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
    tables = [table.slice(start, stop - start) for start, stop in itertools.pairwise(borders)]
    text, path = _text(identity), storage.join(folder, part_name(index, num_parts))
    sha256 = storage.write_parquet(path, tables, {_IDENTITY: text})
    _write_record(path, text, sha256, labels, embeddings.shape[1])


def _text(identity: Mapping[str, Any]) -> str:
    return json.dumps(dict(identity), sort_keys=True)


def record_path(path: str) -> str:
    """Path of a part's record."""
    return f"{path.removesuffix('.parquet')}.json"


def _write_record(path: str, identity: str, sha256: str, labels: np.ndarray, dimension: int) -> dict[str, Any]:
    """Writes and returns the record of a part for `finish`: its identity, checksums, dimension and labels."""
    part = dict(file=path.rsplit("/", 1)[-1], rows=len(labels), sha256=sha256, footer_sha256=footer_sha256(path))
    found, counts = (column.tolist() for column in np.unique(labels, return_counts=True))
    record = dict(identity=identity, part=part, dimension=dimension, labels=found, counts=counts)
    storage.write_json(record_path(path), record)
    return record


def _record(path: str, identity: Mapping[str, Any], whole: bool = False) -> dict[str, Any] | None:
    """The part's record; None if the part is missing, damaged or has another identity.

    Checks the checksum of the footer or, if `whole`, of all bytes. Parts by earlier versions have no record, which is then
    made by reading the part once.
    """
    if not storage.exists(path):
        return None
    text, where = _text(identity), record_path(path)
    try:
        record = workdir.need_fields(where, storage.read_json(where), part=dict, labels=list)
    except (FileNotFoundError, DataError):
        try:
            table = storage.read_parquet(path, ["position", "label", "embedding"])
        except DataError:
            return None
        if storage.parquet_metadata(table).get(_IDENTITY) != text:
            return None
        dimension = table.schema.field("embedding").type.list_size
        return _write_record(path, text, storage.sha256(path), table["label"].to_numpy(), dimension)
    same = (record["identity"], record["part"]["footer_sha256"]) == (text, footer_sha256(path))
    return record if same and (not whole or record["part"]["sha256"] == storage.sha256(path)) else None


def part_identity(path: str) -> dict[str, Any] | None:
    """The identity stored in a part; None if the file is damaged or has none."""
    try:
        file = storage.open_parquet(path)
    except DataError:
        return None
    found = (file.schema_arrow.metadata or {}).get(_IDENTITY.encode())
    file.close(force=True)
    return json.loads(found) if found else None


def part_done(folder: str, index: int, num_parts: int, identity: Mapping[str, Any]) -> bool:
    """Whether the part exists, is undamaged, and has this identity; otherwise it may be rewritten."""
    return _record(storage.join(folder, part_name(index, num_parts)), identity, whole=True) is not None


def footer_sha256(path: str) -> str:
    """Hex SHA-256 of a Parquet file's footer; no two parts have the same footer."""
    with storage.open_read(path) as file:
        return hashlib.sha256(storage.parquet_footer(file)).hexdigest()


def digest(parts: Sequence[Mapping[str, Any]]) -> str:
    """One checksum of all parts. In the manifest it states that `write_part` wrote and checked them."""
    return hashlib.sha256(json.dumps([part["sha256"] for part in parts]).encode()).hexdigest()


def finish(
    folder: str, num_parts: int, identity: Mapping[str, Any], class_names: Sequence[str], num_stored: int
) -> dict[str, Any]:
    """Writes the manifest from the parts' records, and removes the records.

    Reads only the footers of the parts; other damage is found when the store is opened.

    Args:
      folder: the store's folder.
      num_parts: number of parts, all of which must be written.
      identity: identity that was given to `write_part`.
      class_names: names of the labels 0, 1, ….
      num_stored: size of the stored split, including images that are not embedded; each position is below it.

    Returns:
      The manifest.

    Raises:
      DataError: a part is missing, damaged or has another identity, or has a label without a name.
    """
    parts, counts, dimensions = [], np.zeros(len(class_names), np.int64), set()
    for index in range(num_parts):
        path = storage.join(folder, part_name(index, num_parts))
        record = _record(path, identity)
        if record is None:
            raise DataError(f"{path} is missing, damaged or of another model; run the stage that writes it again.")
        dimensions.add(record["dimension"])
        labels = record["labels"]
        if labels[0] < 0 or labels[-1] >= len(class_names):
            raise DataError(
                f"{path} has labels {labels[0]}…{labels[-1]}; wanted 0…{len(class_names) - 1}, "
                f"the {len(class_names)} class names."
            )
        counts[labels] += record["counts"]
        parts.append(record["part"])
    if len(dimensions) != 1:
        raise DataError(f"{folder}: parts hold embeddings of {sorted(dimensions)} numbers; wanted one dimension.")
    manifest = {
        **identity,
        "dimension": dimensions.pop(),
        "num_examples": int(counts.sum()),
        "num_stored": int(num_stored),
        "class_names": list(class_names),
        "class_counts": {str(label): int(counts[label]) for label in np.flatnonzero(counts)},
        "checkpoint": identity.get("checkpoint"),
        "fingerprint": identity.get("fingerprint"),
        "parts": parts,
        "checked": digest(parts),
    }
    for part in parts:  # removed before the manifest is written, so that no record remains beside a manifest
        storage.remove(record_path(storage.join(folder, part["file"])))
    workdir.write_manifest(folder, manifest)
    return manifest
