"""The command `export`: what a subset keeps, or drops, as a file for other tools."""

import dataclasses
import io
import json
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
from redundancy.selection.subset import Subset, read_subset
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


def _entry(request: Request, workdir: Workdir, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """The subset's entry in the manifest; raises ConfigError that names those there are."""
    layer = (request.layer or "end") if request.method == "semantic" else None
    name = subset_name(request.method, request.fraction, request.trial, layer or "end")
    files = {file["file"].removesuffix(".parquet"): file for file in manifest["files"]}
    if name in files:
        return files[name]
    kinds: dict[str, list[str]] = {}
    for file in manifest["files"]:
        kind = file["method"] + (f" --layer {file['layer']}" if file["layer"] not in (None, "end") else "")
        kind += f" --trial {file['trial']}" if file["trial"] is not None else ""
        kinds.setdefault(kind, []).append(f"{file['fraction']:g}")
    there = "; ".join(f"--method {kind}: {', '.join(fractions)}" for kind, fractions in kinds.items())
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
    """
    folders = []
    for layer in _layers(request, manifest):
        folder = workdir.embeddings(layer)
        path = storage.join(folder, "manifest.json")
        if not storage.exists(path):
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
      DataError: some position has none, or they are damaged.
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
      ConfigError: there is no such subset, or `output` is there already.
      WorkdirError: the stage select has not finished, or other embeddings have taken the place of its own.
      DataError: an artifact is damaged, or the data set has no TFDS ids.
    """
    _check(request)
    manifest = need_manifest(workdir.subsets, "select", inputs=dict, files=list)
    entry = _entry(request, workdir, manifest)
    if storage.exists(request.output) and not request.overwrite:
        raise ConfigError(f"--output={request.output} is there already. Choose another file, or give --overwrite.")
    path = storage.join(workdir.subsets, entry["file"])
    if not storage.exists(path) or storage.sha256(path) != entry["sha256"]:
        raise DataError(
            f"{path} is missing, damaged or another file than the manifest names. Delete {workdir.subsets} and run "
            '"redundancy select" again.'
        )
    subset = read_subset(path)
    rows = np.flatnonzero(~subset.kept if request.dropped else subset.kept)
    positions = subset.positions[rows]
    match request.format:
        case "npy":
            buffer = io.BytesIO()
            np.save(buffer, positions)
            data = buffer.getvalue()
        case "txt":
            ids = _ids(_stores(request, workdir, manifest), positions)
            data = _lines(positions.tolist() if ids is None else ids.to_pylist())
        case "parquet":
            stores = _stores(request, workdir, manifest)
            names = read_manifest(stores[0], class_names=list)["class_names"] if stores else None
            table = _table(subset, rows, _ids(stores, positions), names)
            data = storage.parquet_bytes([table], {"subset": json.dumps(subset.metadata, sort_keys=True)})
        case "tfds":
            data = _lines(tfds_ids.example_ids(subset.metadata["fingerprint"] or {}, positions))
    # Created, unless it may be replaced: a file that another process has written since stays.
    if request.overwrite:
        storage.write_bytes(request.output, data)
    elif not storage.create_bytes(request.output, data):
        raise ConfigError(f"--output={request.output} is there already. Choose another file, or give --overwrite.")
    what = "dropped" if request.dropped else "kept"
    logging.info("export: %d of %d images %s, in %s", len(rows), len(subset.positions), what, request.output)
