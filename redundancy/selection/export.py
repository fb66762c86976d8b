"""The command `export`: what a subset keeps, or drops, its groups or its embeddings, as files for other tools."""

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
from redundancy.config import LAYERS, fraction_name
from redundancy.data import tfds_ids
from redundancy.embedding import ids as ids_lib
from redundancy.embedding.store import EmbeddingStore
from redundancy.runtime.errors import ConfigError, DataError, WorkdirError
from redundancy.selection import groups, methods, projector
from redundancy.selection.methods import METHODS
from redundancy.selection.subset import Subset, check_file, read_subset
from redundancy.workdir import Workdir, need_manifest, read_manifest, subset_name

FORMATS = ("npy", "txt", "parquet", "tfds", "groups-csv", "groups-parquet", "projector")
_OF_ALL = FORMATS[4:]  # those of all images, kept and dropped
IMAGE_IDS = ("auto", "tfds", "none")


@dataclasses.dataclass(frozen=True)
class Request:
    """What the command line asks for.

    Attributes:
      fraction: kept share of the subset.
      format: one of FORMATS.
      output: file to write, local or gs://; of the projector the folder.
      method: how the subset was chosen.
      layer: of its embeddings; None is "end", or none where the method reads none.
      trial: number of the trial; None where one subset serves all.
      dropped: the images that the subset leaves out, instead of those that it keeps.
      overwrite: whether a file that is there may be replaced.
      image_ids: one of IMAGE_IDS: what the column id of groups and projector holds; None is "auto".
      limit: most images for the projector; None is 10,000.
    """

    fraction: float
    format: str
    output: str
    method: str = methods.DEFAULT[0]
    layer: str | None = None
    trial: int | None = None
    dropped: bool = False
    overwrite: bool = False
    image_ids: str | None = None
    limit: int | None = None

    @property
    def of_layer(self) -> str | None:
        """The subset's layer; None where the method reads none."""
        return (self.layer or "end") if METHODS[self.method].per_layer else None


def _check(request: Request) -> None:
    """Raises ConfigError where the request makes no sense, whatever the workdir holds."""
    if not 0 < request.fraction <= 1:  # nor is NaN
        raise ConfigError(f"--fraction is {request.fraction:g}; wanted a number above 0 and up to 1, such as 0.9.")
    for field, known in (("method", METHODS), ("format", FORMATS)):
        if getattr(request, field) not in known:
            raise ConfigError(f"--{field} is {getattr(request, field)!r}; wanted one of {', '.join(known)}.")
    if request.layer is not None and request.layer not in LAYERS:
        raise ConfigError(f"--layer is {request.layer!r}; wanted one of {', '.join(LAYERS)}.")
    method = METHODS[request.method]
    if not method.per_layer and request.layer is not None:
        raise ConfigError(f"--layer is given, but {method.name} subsets come from no layer; leave it out.")
    if method.per_trial and request.trial is None:
        raise ConfigError(f"--trial is missing: there is a {method.name} subset for each trial; for example --trial=0.")
    if not method.per_trial and request.trial is not None:
        raise ConfigError(f"--trial is given, but there is one {request.method} subset for all trials; leave it out.")
    if request.dropped and request.format in _OF_ALL:
        raise ConfigError(f"--dropped is given, but --format {request.format} has all images; leave it out.")
    if request.image_ids is not None and request.format not in _OF_ALL:
        raise ConfigError(f"--image-ids is for --format {', '.join(_OF_ALL)}, not for {request.format}; leave it out.")
    if request.image_ids is not None and request.image_ids not in IMAGE_IDS:
        raise ConfigError(f"--image-ids is {request.image_ids!r}; wanted one of {', '.join(IMAGE_IDS)}.")
    if request.limit is not None and request.format != "projector":
        raise ConfigError(f"--limit is for --format projector, not for {request.format}; leave it out.")
    if request.limit is not None and request.limit < 1:
        raise ConfigError(f"--limit is {request.limit}; wanted a number of images from 1 on.")


def _check_output(request: Request) -> None:
    """Raises ConfigError where `output` is no file that may be written."""
    path, shown = request.output, f"--output={request.output}"
    if path == "-":
        raise ConfigError(f"{shown}: nothing is written to the standard output; wanted a file, such as ./kept.txt.")
    local = os.path.expanduser(path.removeprefix("file://")) if storage.is_local(path) else ""
    if request.format == "projector":
        _check_folder(request, shown)
        return
    if path.endswith("/") or os.path.isdir(local):
        name = f"kept.{request.format.rpartition('-')[2]}"
        raise ConfigError(f"{shown} is a folder; wanted a file, such as {storage.join(path, name)}.")
    if not storage.exists(path):
        return
    if not request.overwrite:
        raise ConfigError(f"{shown} is there already. Choose another file, or give --overwrite.")
    if local and not os.path.isfile(local):
        raise ConfigError(f"{shown} is a pipe, device or socket, which --overwrite does not replace; name a file.")


def _check_folder(request: Request, shown: str) -> None:
    """Raises ConfigError where `output` is no folder that the projector's files may be written to."""
    local = os.path.expanduser(request.output.removeprefix("file://")) if storage.is_local(request.output) else ""
    if local and os.path.exists(local) and not os.path.isdir(local):
        raise ConfigError(f"{shown} is a file; wanted a folder, new or empty.")
    there = storage.list_dir(request.output)
    if others := sorted({*there} - {*projector.FILES}):
        raise ConfigError(f"{shown} holds {others[0]}; wanted a folder, new or empty.")
    if there and not request.overwrite:
        raise ConfigError(f"{shown} holds {there[0]} already. Choose another folder, or give --overwrite.")


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
    layer = request.of_layer
    name = subset_name(request.method, request.fraction, request.trial, layer or "end")
    files = {file["file"].removesuffix(".parquet"): file for file in manifest["files"]}
    given = request.fraction
    # A name has four digits: 0.90004 is not 0.9, but 0.3333 names the subset of 1/3.
    if name in files and any(
        math.isclose(given, known, rel_tol=0, abs_tol=1e-9)
        for known in (float(fraction_name(given)), files[name]["fraction"])
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


def _lines(values: Sequence[Any]) -> bytes:
    return "".join(f"{value}\n" for value in values).encode()


def _image_ids(request: Request, stores: Sequence[str], subset: Subset, dataset) -> tuple[pa.Array | None, str]:
    """The column id of all images of a subset, or None, and for the log what it holds.

    Raises:
      DataError: ids are lost or damaged, or TFDS's are asked for and the data set has none.
    """
    positions = subset.positions
    match request.image_ids or "auto":
        case "none":
            return None, ""
        case "tfds":
            return pa.array(tfds_ids.example_ids(subset.metadata["fingerprint"] or {}, positions)), ", with TFDS's ids"
    ids = _ids(stores, positions)
    if ids is not None:
        return ids, ", with the ids that were imported"
    names = dataset.file_names("train", positions) if dataset is not None else None
    return (None, ", without ids") if names is None else (pa.array(names, pa.string()), ", with the names of files")


def _siblings(
    request: Request, workdir: Workdir, manifest: Mapping[str, Any], subset: Subset
) -> dict[float, np.ndarray]:
    """Which images are kept at each fraction that was selected in the same way, descending.

    Raises:
      DataError: a subset is damaged, or has other images.
    """
    layer = request.of_layer
    found = {}
    for entry in manifest["files"]:
        if (entry["method"], entry["layer"], entry["trial"]) == (request.method, layer, request.trial):
            path = check_file(workdir.subsets, entry)
            other = read_subset(path)
            if not np.array_equal(other.positions, subset.positions):
                raise DataError(
                    f"{path} holds other images than the subset at {request.fraction:g}. Delete {workdir.subsets} and run "
                    '"redundancy select" again.'
                )
            found[entry["fraction"]] = other.kept
    return dict(sorted(found.items(), reverse=True))


def _open_dataset(config, workdir: Workdir, subset: Subset, request: Request):
    """The data set of a config, which is the subset's; None without a config."""
    if config is None:
        return None
    from redundancy.data import shared_dataset

    dataset = shared_dataset(config)
    fingerprint = subset.metadata["fingerprint"] or {}
    workdir.check_fingerprint(fingerprint, dataset.fingerprint, workdir.subsets)
    return dataset


def export(request: Request, workdir: Workdir, config=None) -> None:
    """Writes the positions that a finished subset keeps, ascending, to `request.output`.

    npy: int64 positions. txt: a line for each, the id where ids were imported, else the position. parquet: a row for
    each with position, label, class (its name), id (where imported), group and dissimilarity to the group's kept image (null
    for random subsets), kept. tfds: a line for each, TFDS's own example id. groups-csv, groups-parquet: a row for each image,
    see `groups.make_table`. projector: a folder, see `projector.write`.

    Args:
      request: what is wanted.
      workdir: with finished subsets.
      config: resolved, of the data set, or None; for names of files and thumbnails of groups and projector.

    Raises:
      ConfigError: there is no such subset, or `output` is there already or cannot be written.
      WorkdirError: the stage select has not finished, other embeddings have taken the place of its own, or the config is
        of another data set.
      DataError: an artifact is damaged, or the data set has no TFDS ids.
    """
    _check(request)
    manifest = need_manifest(workdir.subsets, "select", inputs=dict, files=list)
    entry = _entry(request, workdir, manifest)
    _check_output(request)
    subset = read_subset(check_file(workdir.subsets, entry))
    if request.format in _OF_ALL:
        _export_all(request, workdir, manifest, subset, config)
        return
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
            ids = _ids(stores, positions)
            said = _said(stores, ids)
            table = groups.make_rows(subset, rows, ids, _class_names(stores))
            data = storage.parquet_bytes([table], {"subset": json.dumps(subset.metadata, sort_keys=True)})
        case "tfds":
            data = _lines(tfds_ids.example_ids(subset.metadata["fingerprint"] or {}, positions))
    _write(request, data)
    what = "dropped" if request.dropped else "kept"
    logging.info("export: %d of %d images %s, in %s%s", len(rows), len(subset.positions), what, request.output, said)


def _class_names(stores: Sequence[str]) -> list[str] | None:
    return read_manifest(stores[0], class_names=list)["class_names"] if stores else None


def _export_all(request: Request, workdir: Workdir, manifest: Mapping[str, Any], subset: Subset, config) -> None:
    """Writes what has all images of a subset; raises as `export`."""
    stores = _stores(request, workdir, manifest)
    dataset = _open_dataset(config, workdir, subset, request)
    ids, said = _image_ids(request, stores, subset, dataset)
    table = groups.make_table(subset, _siblings(request, workdir, manifest, subset), ids, _class_names(stores))
    if request.format == "projector":
        layer = request.of_layer or _layers(request, manifest)[0]
        folder = workdir.embeddings(layer)
        if folder not in stores:
            raise WorkdirError(f'{folder} has no embeddings, which the projector shows. Run "redundancy embed" again.')
        try:
            said += projector.write(request.output, table, EmbeddingStore(folder), dataset, request.limit)
        except OSError as error:
            raise ConfigError(
                f"--output={request.output} cannot be written ({error.strerror or error}). Choose a folder elsewhere."
            ) from error
    elif request.format == "groups-csv":
        _write(request, groups.csv_bytes(table))
    else:
        metadata = {"subset": json.dumps(subset.metadata, sort_keys=True)}
        _write(request, storage.parquet_bytes([table], metadata))
    logging.info("export: %d images in %s%s", table.num_rows, request.output, said)
