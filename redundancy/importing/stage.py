"""The command `import`: writes embeddings of other tools, from .npy or Parquet, to the store that `link` reads.

A first pass checks all files before anything is written. Finished embeddings are not overwritten; an interrupted import
continues where it stopped.
"""

import collections
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from absl import logging

from redundancy import storage
from redundancy.data import inputs
from redundancy.embedding import ids as ids_lib
from redundancy.embedding import write
from redundancy.importing import columns as columns_lib
from redundancy.importing import labels as labels_lib
from redundancy.importing.request import Request, check, parse_columns
from redundancy.importing.vectors import FileVectors, Vectors, checked, open_vectors
from redundancy.runtime.errors import ConfigError, DataError, WorkdirError
from redundancy.runtime.progress import Progress
from redundancy.workdir import Workdir, read_manifest

_PART_BYTES = 256e6
_IMPORTED = "imported"
# With fewer embeddings, a separate class for each of them is not taken for a mistake.
_MANY = 20


class _Input(NamedTuple):
    """Opened files; the values of the vectors are not checked yet."""

    vectors: FileVectors
    labels: labels_lib.Labels
    ids: pa.Array | None  # [N] string


class _Target(NamedTuple):
    """The interpretation of the rows."""

    rows: np.ndarray  # [n] int64 ascending, the rows to store
    positions: np.ndarray  # [n] int64 ascending, positions of these rows
    labels: np.ndarray  # [n] int32
    class_names: list[str]  # name of each label
    num_stored: int  # upper bound of positions
    fingerprint: Mapping[str, Any] | None  # of the data set; None if the files themselves are the data set


def _read_input(request: Request, config) -> _Input:
    """Opens the files and checks everything except the vectors. Raises ConfigError, DataError."""
    columns = parse_columns(request.columns)
    # The order of files matters only if something refers to their rows from outside.
    joined = request.labels or request.ids or config is not None or "id" not in columns
    vectors = open_vectors(request.embeddings, columns.get("embedding"), request.order or ("" if joined else "text"))
    ids, column = None, columns.get("id")
    beside = request.labels if column and request.labels and columns_lib.has_columns(request.labels) else ""
    if path := request.ids or beside:
        ids = labels_lib.check_ids(columns_lib.read(path, column, "id", vectors.num_rows))
    elif column and vectors.columns:
        ids = labels_lib.check_ids(_of_vectors(request, vectors, column, "id"))
    elif column:
        raise ConfigError(f"--columns names a column of ids, {column!r}, but no Parquet or .csv file is given.")
    return _Input(vectors, _read_labels(request, columns.get("label"), vectors, config), ids)


def _of_vectors(request: Request, vectors: FileVectors, column: str, what: str) -> columns_lib.Column:
    """Reads a column from the files of embeddings."""
    return columns_lib.of_parquet(vectors.paths, column, vectors.num_rows, what, request.embeddings)


def _read_labels(request: Request, column: str | None, vectors: FileVectors, config) -> labels_lib.Labels:
    """The labels from a file or a column; without labels, one class for all. Raises ConfigError, DataError."""
    if request.labels:
        return labels_lib.check_labels(columns_lib.read(request.labels, column, "label", vectors.num_rows))
    name = column or "label"
    if name in vectors.columns or (column and vectors.columns):
        return labels_lib.check_labels(_of_vectors(request, vectors, name, "label"))
    there = f"there is no column {name!r} among {inputs.shown(', '.join(vectors.columns))}" if vectors.columns else ""
    for flag, given in (
        ("--config, whose data set has labels to compare them with", config is not None),
        (f"--columns, which names a column of labels, {column!r}", column),
        ("--class-names", request.class_names),
        ("--labels-are", request.labels_are),
    ):
        if given:
            raise ConfigError(
                f"--labels is missing{f', and {there}' if there else ''}: wanted a .npy, .csv, .txt or Parquet file with the class "
                f"of each embedding, beside {flag}."
            )
    logging.warning(
        "import: no labels are given%s: all %d embeddings are one class. If they have classes, give --labels%s.",
        f", and {there}" if there else "", vectors.num_rows, " or --columns label=NAME" if there else "",
    )  # fmt: skip
    return labels_lib.one_class(vectors.num_rows)


def _own_target(request: Request, given: _Input) -> _Target:
    """The target if the files are the data set: rows are positions."""
    names, are = given.labels.class_names, request.labels_are
    if request.class_names:
        names = labels_lib.read_class_names(request.class_names)
    elif names is not None and are == "names":  # numbers are names, too
        names = None
    elif names is not None:
        names, are = labels_lib.check_class_names(given.labels.where, names), "indices"
    labels, class_names = labels_lib.encode(given.labels, names, are)
    inputs.warn_of_similar_names(request.class_names or given.labels.where, class_names)
    n, found = len(labels), len(given.labels.values)
    if n >= _MANY and found > 0.9 * n:
        example = given.labels.values[0]
        logging.warning(
            "import: %s has %d different labels for %d embeddings, for example %r. They look like ids, not classes: only "
            "images of one class are compared, so hardly any could be left out.%s",
            given.labels.where, found, n, example,
            ' The lines hold ";": if it separates columns, save the file with commas.' if ";" in str(example) else "",
        )  # fmt: skip
    return _Target(np.arange(n), np.arange(n), labels, class_names, n, None)


def _dataset_target(request: Request, given: _Input, dataset) -> _Target:
    """The target if rows are the training images of a data set, by position; raises DataError if number or labels differ."""
    train, n = dataset.train, given.vectors.num_rows
    held_out = train.num_stored - len(train.positions)
    if n == len(train.positions):
        rows = np.arange(n)
    elif n == train.num_stored:  # the whole stored split, including a part that is held out for measuring
        rows = train.positions
        logging.info("import: %d of %d rows are of images held out for measuring, and left out", held_out, n)
    else:
        also = f" (or {train.num_stored}, with those held out for measuring)" if held_out else ""
        raise DataError(
            f"{given.vectors.name} has {n} embeddings; the data set {dataset.name!r} has {len(train.positions)} "
            f"training images{also} in {train.stored!r}. Wanted: one embedding of each, in stored order."
        )
    labels = given.labels
    readings = labels_lib.readings(labels, dataset.class_names, request.labels_are)
    twice, times = collections.Counter(dataset.class_names).most_common(1)[0]
    if times > 1 and "indices" not in readings:
        raise DataError(
            f"{labels.where}: the labels are names, but {times} classes of the data set {dataset.name!r} are called "
            f"{twice!r}; wanted numbers."
        )
    codes = labels.codes[rows]
    # If labels may be names or indices, the interpretation that agrees best with the data set is chosen.
    wrong = min((np.flatnonzero(each[codes] != train.labels) for each in readings.values()), key=len)
    if len(wrong):
        first = int(wrong[0])
        right = int(train.labels[first])
        raise DataError(
            f"{labels.where}: position {train.positions[first]} (row {rows[first]}) has the label "
            f"{labels.values[codes[first]]!r}; the data set {dataset.name!r} has {right} ({dataset.class_names[right]!r}) there. "
            f"{len(wrong)} of {len(rows)} labels disagree. Wanted: the data set's labels, in its stored order; these may be of "
            "another order, split or data set."
        )
    return _Target(
        rows, train.positions, train.labels, list(dataset.class_names), train.num_stored, dataset.fingerprint
    )


def _check_vectors(given: _Input, target: _Target) -> str:
    """Reads all vectors once; returns the SHA-256 of vectors, labels and class names, however they are divided into files.

    Raises DataError if a vector holds NaN or infinity, or is zero.
    """
    vectors = given.vectors
    digest = hashlib.sha256(f"{vectors.num_rows} {vectors.dimension}\n".encode())
    with Progress(f"check {vectors.name}", vectors.num_rows, "embeddings") as progress:
        for block in checked(vectors):
            digest.update(np.ascontiguousarray(block, "<f4").data)
            progress.advance(len(block))
    digest.update(np.ascontiguousarray(target.labels, "<i4").data)
    digest.update(json.dumps(target.class_names).encode())
    return digest.hexdigest()


def _identity(request: Request, given: _Input, target: _Target, content: str) -> dict[str, Any]:
    """The identity of the embeddings, for the store."""
    name = given.vectors.name
    fingerprint = target.fingerprint or {
        "name": request.name or name,
        "sha256": content,
        "split": _IMPORTED,
        "shard_lengths": [given.vectors.num_rows],
    }
    checkpoint = {"model": request.checkpoint, "imported": name, "sha256": content}
    return {"layer": request.layer, "checkpoint": checkpoint, "fingerprint": dict(fingerprint)}


def _finished(folder: str, identity: Mapping[str, Any], ids: pa.Array | None) -> bool:
    """Whether the same import has finished; raises WorkdirError for other embeddings, DataError for other ids."""
    manifest = read_manifest(folder)
    if manifest is None:
        return False
    remedy = (
        f"Import overwrites nothing: delete {folder} and what was made of it, or choose another --workdir or --layer."
    )
    checkpoint, theirs = (
        manifest.get(key) if isinstance(manifest, dict) else None for key in ("checkpoint", "fingerprint")
    )
    theirs, ours = theirs if isinstance(theirs, dict) else {}, identity["fingerprint"]
    content, wanted = ids_lib.content_of(manifest), identity["checkpoint"]["sha256"]
    if not isinstance(content, str):
        found = f"embeddings that were not imported ({checkpoint})"
    elif content != wanted:
        found = (
            f"other embeddings, labels or class names: those of {checkpoint.get('imported')!r}, SHA-256 {content[:12]}…; "
            f"these have {wanted[:12]}…"
        )
    elif theirs != ours and not theirs.get("split") == ours["split"] == _IMPORTED:
        found = (
            f"these embeddings as those of the data set {theirs.get('name')!r} (split {theirs.get('split')!r}), and now they "
            f"are given as those of {ours['name']!r} ({ours['split']!r})"
        )
    elif ids is None or ids_lib.may_write(folder, ids):
        return True
    else:
        raise DataError(f"{folder} was imported with other ids than these. {remedy}")
    raise WorkdirError(f"{folder} holds {found}. {remedy}")


def _clear_begun(folder: str, identity: Mapping[str, Any], num_parts: int) -> None:
    """Removes this import's parts if it was begun with another number of parts; raises WorkdirError for other parts."""
    expected = {write.part_name(index, num_parts) for index in range(num_parts)}
    for name in storage.list_dir(folder):
        path = storage.join(folder, name)
        found = write.part_identity(path) if name.startswith("part-") else None
        if found is not None and found != identity:
            raise WorkdirError(
                f"{path} was begun by another import (other contents, another file name, --name, --checkpoint or "
                f"--config) or by embed. Delete {folder} to begin again, or choose another --workdir or --layer."
            )
        if found is not None and name not in expected:
            storage.remove(path)
            storage.remove(write.record_path(path))


def _take(blocks: Iterator[np.ndarray], left: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """The next `rows` rows of `left` and then `blocks`, and the rest of the last block."""
    taken, count = [left[:rows]], len(left[:rows])
    left = left[rows:]
    while count < rows:
        block = next(blocks)
        taken.append(block[: rows - count])
        left = block[rows - count :]
        count += len(taken[-1])
    return np.concatenate(taken), left


def _write_parts(folder: str, vectors: Vectors, target: _Target, identity: Mapping[str, Any], num_parts: int) -> None:
    """Writes the missing parts; reads the files sequentially and skips the rows of existing parts."""
    chunks = np.array_split(np.arange(len(target.positions)), num_parts)
    done = [write.part_done(folder, index, num_parts, identity) for index in range(num_parts)]
    finished = sum(len(chunk) for chunk, is_done in zip(chunks, done, strict=True) if is_done)
    blocks, at, left = iter(()), -1, np.empty((0, vectors.dimension), np.float32)
    with Progress(f"import {identity['layer']}", len(target.positions), "embeddings", done=finished) as progress:
        for index, chunk in enumerate(chunks):
            if done[index]:
                continue
            rows = target.rows[chunk]
            first, stop = int(rows[0]), int(rows[-1]) + 1
            if at < 0 or first - at > len(left):
                blocks, at, left = vectors.blocks(first), first, left[:0]
            taken, left = _take(blocks, left, stop - at)
            if len(taken) > len(rows):
                taken = taken[rows - at]
            write.write_part(folder, index, num_parts, target.positions[chunk], target.labels[chunk], taken, identity)
            at = stop
            progress.advance(len(chunk))


def import_embeddings(request: Request, workdir: Workdir, config=None) -> None:
    """Imports embeddings and labels of any origin into embeddings/LAYER/.

    Args:
      request: the files and their interpretation.
      workdir: workdir to write to.
      config: resolved config of a data set, if the embeddings are those of its training images in stored order. With None,
        positions are row numbers.

    Raises:
      ConfigError: a flag is wrong, or a file is missing.
      DataError: a file is damaged or has wrong contents; nothing has been written then.
      WorkdirError: the workdir holds other embeddings, or belongs to another data set.
    """
    check(request, config)
    given = _read_input(request, config)
    recorded = workdir.dataset_fingerprint()
    if config is not None:
        from redundancy.data import shared_dataset

        dataset = shared_dataset(workdir.known(config))
        target = _dataset_target(request, given, dataset)
        if recorded is not None:
            workdir.check_fingerprint(recorded, dataset.fingerprint, workdir.config)
    elif recorded is not None:
        raise WorkdirError(
            f"{workdir.root} belongs to the data set {recorded.get('name')!r}. Give its --config, so that the labels are "
            "compared with the data set's, or choose another --workdir."
        )
    else:
        target = _own_target(request, given)
    content = _check_vectors(given, target)
    if config is not None:
        workdir.claim(config, lambda config: dataset.fingerprint)
    identity = _identity(request, given, target, content)
    folder, n = workdir.embeddings(request.layer), len(target.positions)
    ids = None if given.ids is None else given.ids.take(pa.array(target.rows))
    if _finished(folder, identity, ids):
        if ids is not None and not storage.exists(ids_lib.path(folder)):
            ids_lib.write(folder, target.positions, ids, content)
            logging.info("import: the ids were added to %s", folder)
        logging.info("import %s: finished already", request.layer)
        return
    if target.fingerprint is not None:
        workdir.claim_dataset(target.fingerprint)
    num_parts = min(n, request.parts or max(1, round(4 * n * given.vectors.dimension / _PART_BYTES)))
    _clear_begun(folder, identity, num_parts)
    _write_parts(folder, given.vectors, target, identity, num_parts)
    if ids is None and config is not None and (names := dataset.file_names("train", target.positions)) is not None:
        ids = ids_lib.of_files(names)
    if ids is None:
        ids_lib.remove(folder)
    else:
        ids_lib.write(folder, target.positions, ids, content)
    write.finish(folder, num_parts, identity, target.class_names, target.num_stored)
    logging.info(
        "import: %d embeddings of %d numbers in %s are in %s; next: redundancy link",
        n, given.vectors.dimension, f"{num} classes" if (num := len(target.class_names)) > 1 else "one class", folder,
    )  # fmt: skip
