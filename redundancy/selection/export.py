"""The command `export`: what a subset keeps, or drops, as a file for other tools."""

import dataclasses
import errno
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from absl import logging

from redundancy import storage
from redundancy.config import LAYERS, METHODS
from redundancy.data import tfds_ids
from redundancy.embedding import ids as ids_lib
from redundancy.errors import ConfigError, DataError, WorkdirError
from redundancy.selection.subset import Subset, check_file, read_subset
from redundancy.workdir import Workdir, need_manifest, read_manifest, subset_name

FORMATS = ("npy", "txt", "parquet", "tfds")


@dataclasses.dataclass(frozen=True)
class Request:
    """What the command line asks for.

    Attributes:
      fraction: kept share of the subset.
      format: one of FORMATS.
      output: file to write, local or gs://.
      method: how the subset was chosen.
      layer: of its embeddings; None is "end", and random subsets have none.
      trial: number of a random subset; None for semantic.
      dropped: the images that the subset leaves out, instead of those that it keeps.
      overwrite: whether a file that is there may be replaced.
    """

    fraction: float
    format: str
    output: str
    method: str = "semantic"
    layer: str | None = None
    trial: int | None = None
    dropped: bool = False
    overwrite: bool = False


def _check(request: Request) -> None:
    """Raises ConfigError where the request makes no sense, whatever the workdir holds."""
    if not 0 < request.fraction <= 1:  # nor is NaN
        raise ConfigError(f"--fraction is {request.fraction:g}; wanted a number above 0 and up to 1, such as 0.9.")
    for field, known in (("method", METHODS), ("format", FORMATS)):
        if getattr(request, field) not in known:
            raise ConfigError(f"--{field} is {getattr(request, field)!r}; wanted one of {', '.join(known)}.")
    if request.layer is not None and request.layer not in LAYERS:
        raise ConfigError(f"--layer is {request.layer!r}; wanted one of {', '.join(LAYERS)}.")
    if request.method == "random" and request.layer is not None:
        raise ConfigError("--layer is given, but random subsets come from no layer; leave it out.")
    if request.method == "random" and request.trial is None:
        raise ConfigError("--trial is missing: there is a random subset for each trial; for example --trial=0.")
    if request.method != "random" and request.trial is not None:
        raise ConfigError(f"--trial is given, but there is one {request.method} subset for all trials; leave it out.")


def _check_output(request: Request) -> None:
    """Raises ConfigError where `output` is no file that may be written."""
    path, shown = request.output, f"--output={request.output}"
    if path == "-":
        raise ConfigError(f"{shown}: nothing is written to the standard output; wanted a file, such as ./kept.txt.")
    local = os.path.expanduser(path.removeprefix("file://")) if storage.is_local(path) else ""
    if path.endswith("/") or os.path.isdir(local):
        raise ConfigError(
            f"{shown} is a folder; wanted a file, such as {storage.join(path, f'kept.{request.format}')}."
        )
    if not storage.exists(path):
        return
    if not request.overwrite:
        raise ConfigError(f"{shown} is there already. Choose another file, or give --overwrite.")
    if local and not os.path.isfile(local):
        raise ConfigError(f"{shown} is a pipe, device or socket, which --overwrite does not replace; name a file.")


def _write(request: Request, data: bytes) -> None:
    """Writes the file whole; raises ConfigError where that cannot be, naming --output."""
    try:
        # Created, unless it may be replaced: a file that another process has written since stays.
        if request.overwrite:
            storage.write_bytes(request.output, data)
        elif not storage.create_bytes(request.output, data):
            raise ConfigError(f"--output={request.output} is there already. Choose another file, or give --overwrite.")
    except OSError as error:
        todo = "Choose a file in a folder that you may write to"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            todo = "Free some space, or choose a file elsewhere"
        elif error.errno in (errno.EEXIST, errno.ENOTDIR):
            todo = "A file stands where its folder is wanted: choose a file in another folder"
        raise ConfigError(
            f"--output={request.output} cannot be written ({error.strerror or error}). {todo}; nothing was written."
        ) from error


def _entry(request: Request, workdir: Workdir, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """The subset's entry in the manifest; raises ConfigError that names those there are."""
    layer = (request.layer or "end") if request.method == "semantic" else None
    name = subset_name(request.method, request.fraction, request.trial, layer or "end")
    files = {file["file"].removesuffix(".parquet"): file for file in manifest["files"]}
    given = request.fraction
    # A name has four digits: 0.90004 is not 0.9, but 0.3333 names the subset of 1/3.
    if name in files and any(
        math.isclose(given, known, rel_tol=0, abs_tol=1e-9) for known in (round(given, 4), files[name]["fraction"])
    ):
        return files[name]
    kinds: dict[str, list[str]] = {}
    for file in manifest["files"]:
        kind = file["method"] + (f" --layer {file['layer']}" if file["layer"] not in (None, "end") else "")
        kind += f" --trial {file['trial']}" if file["trial"] is not None else ""
        kinds.setdefault(kind, []).append(f"{file['fraction']:g}")
    there = "; ".join(f"--method {kind}: {', '.join(fractions)}" for kind, fractions in kinds.items())
    if name in files:
        raise ConfigError(f"--fraction is {given!r}; wanted one that was selected. There are the fractions {there}.")
    there_are_runs = storage.exists(workdir.runs)
    root = "OTHER" if there_are_runs else workdir.root
    another = f'"redundancy select --config FILE --workdir {root} --config.fractions={request.fraction:g}"'
    if there_are_runs:
        another += ", in another folder, since the runs in this one depend on its fractions"
    raise ConfigError(f"{workdir.subsets} has no {name}. There are the fractions {there}. To make it: {another}.")


def _layers(request: Request, manifest: Mapping[str, Any]) -> list[str]:
    """Layers whose embeddings the subsets were made of, that of this subset first."""
    used = [name.removeprefix("embeddings/") for name in manifest["inputs"] if name.startswith("embeddings/")]
    return sorted(used, key=lambda layer: layer != (request.layer or "end"))


def _stores(request: Request, workdir: Workdir, manifest: Mapping[str, Any]) -> list[str]:
    """Folders of the embeddings that the subsets were made of, as far as they are still there, this subset's first.

    Raises:
      WorkdirError: others lie there now.
      DataError: of some the manifest is missing.
    """
    folders = []
    for layer in _layers(request, manifest):
        folder = workdir.embeddings(layer)
        path = storage.join(folder, "manifest.json")
        if not storage.exists(path):
            if left := storage.list_dir(folder):
                raise DataError(
                    f"{path} is missing, but {left[0]} is there: the embeddings are damaged, and whether they have ids "
                    f"is not known. Bring the file back; or delete {folder} to export positions."
                )
            continue
        if storage.sha256(path) != manifest["inputs"][f"embeddings/{layer}"]:
            raise WorkdirError(
                f"{workdir.subsets} was made from other embeddings than those in {folder}. Delete {workdir.subsets} "
                'and run "redundancy link" and "redundancy select" again.'
            )
        folders.append(folder)
    return folders


def _ids(stores: Sequence[str], positions: np.ndarray) -> pa.Array | None:
    """The ids that were imported for these positions [n], or None.

    Raises:
      DataError: some position has none, or they are lost or damaged.
    """
    for folder in stores:
        found = ids_lib.read(folder)
        if found is None:
            continue
        known, ids = found
        rows = np.minimum(np.searchsorted(known, positions), max(len(known) - 1, 0))
        if not len(known) or (known[rows] != positions).any():
            raise DataError(f"{ids_lib.path(folder)} has no id for some positions. Delete it and import the ids again.")
        return ids.take(pa.array(rows))
    return None


def _said(stores: Sequence[str], ids: pa.Array | None) -> str:
    """For the log: what the images are named by."""
    if ids is not None:
        return ", by their ids"
    why = "no ids were imported" if stores else "the embeddings, and with them any ids, are no longer there"
    return f", by their positions ({why})"


def _table(subset: Subset, rows: np.ndarray, ids: pa.Array | None, class_names: Sequence[str] | None) -> pa.Table:
    """Rows of a subset as a table: position, label, class and id (where known), group, kept, dissimilarity."""
    dissimilarity, group = subset.dissimilarity[rows], subset.group[rows]
    columns: dict[str, Any] = {"position": subset.positions[rows], "label": subset.labels[rows]}
    if class_names is not None:
        columns["class"] = pa.array(class_names, pa.string()).take(pa.array(subset.labels[rows]))
    if ids is not None:
        columns["id"] = ids
    columns["group"] = pa.array(group, pa.int64(), mask=group < 0)
    columns["kept"] = subset.kept[rows]
    columns["dissimilarity"] = pa.array(dissimilarity, pa.float64(), mask=np.isnan(dissimilarity))
    return pa.table(columns)


def _lines(values: Sequence[Any]) -> bytes:
    return "".join(f"{value}\n" for value in values).encode()


def export(request: Request, workdir: Workdir) -> None:
    """Writes the positions that a finished subset keeps, ascending, to `request.output`.

    npy: int64 positions. txt: a line for each, the id where ids were imported, else the position. parquet: a row for
    each with position, label, class (its name), id (where imported), group and dissimilarity to the group's kept image (null
    for random subsets), kept. tfds: a line for each, TFDS's own example id.

    Raises:
      ConfigError: there is no such subset, or `output` is there already or cannot be written.
      WorkdirError: the stage select has not finished, or other embeddings have taken the place of its own.
      DataError: an artifact is damaged, or the data set has no TFDS ids.
    """
    _check(request)
    manifest = need_manifest(workdir.subsets, "select", inputs=dict, files=list)
    entry = _entry(request, workdir, manifest)
    _check_output(request)
    subset = read_subset(check_file(workdir.subsets, entry))
    rows = np.flatnonzero(~subset.kept if request.dropped else subset.kept)
    positions, said = subset.positions[rows], ""
    match request.format:
        case "npy":
            buffer = io.BytesIO()
            np.save(buffer, positions)
            data = buffer.getvalue()
        case "txt":
            stores = _stores(request, workdir, manifest)
            ids = _ids(stores, positions)
            said = _said(stores, ids)
            data = _lines(positions.tolist() if ids is None else ids.to_pylist())
        case "parquet":
            stores = _stores(request, workdir, manifest)
            names = read_manifest(stores[0], class_names=list)["class_names"] if stores else None
            ids = _ids(stores, positions)
            said = _said(stores, ids)
            table = _table(subset, rows, ids, names)
            data = storage.parquet_bytes([table], {"subset": json.dumps(subset.metadata, sort_keys=True)})
        case "tfds":
            data = _lines(tfds_ids.example_ids(subset.metadata["fingerprint"] or {}, positions))
    _write(request, data)
    what = "dropped" if request.dropped else "kept"
    logging.info("export: %d of %d images %s, in %s%s", len(rows), len(subset.positions), what, request.output, said)
