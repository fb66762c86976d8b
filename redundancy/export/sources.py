"""Reads from a workdir what `export` needs: the subset, those at other fractions, and names of images."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from redundancy import methods, storage
from redundancy.config import fraction_name
from redundancy.data.tfds import ids as tfds_ids
from redundancy.embedding import ids as ids_lib
from redundancy.export.request import Request
from redundancy.runtime.errors import ConfigError, DataError, WorkdirError
from redundancy.selection.inputs import check_depth
from redundancy.selection.subset import Subset, check_file, read_subset
from redundancy.workdir import Workdir, read_manifest, subset_name


def rows_of(wanted: np.ndarray, known: np.ndarray) -> np.ndarray | None:
    """The index of each wanted position [n] among the known ones, which ascend; None if one is unknown."""
    rows = np.searchsorted(known, wanted)
    return rows if np.isin(wanted, known).all() else None


def find_entry(request: Request, workdir: Workdir, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """The subset's entry in the manifest; raises ConfigError that lists the existing subsets if there is none."""
    name = subset_name(request.method, request.fraction, request.trial, request.embedding or "end")
    files = {file["file"].removesuffix(".parquet"): file for file in manifest["files"]}
    given = request.fraction
    # Names have four decimals, so fractions are compared, too: 0.90004 is not 0.9, but 0.3333 means the subset of 1/3.
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
    problem = f"{workdir.subsets} has no {name}. There are the fractions {there}."
    if methods.get(request.method).has_groups:
        folder = workdir.merges(request.embedding)
        merges = read_manifest(folder, classes=dict, fractions=list)
        try:
            if merges is not None:
                check_depth(folder, merges, [given])
        except WorkdirError as error:
            raise ConfigError(f"{problem} {error}") from error
    another = f'"redundancy select --config FILE --workdir {workdir.root} --config.fractions={given!r}"'
    if storage.exists(workdir.runs):
        another += ", with the fractions of the runs beside it, which are left out of results.csv otherwise"
    raise ConfigError(f"{problem} To make it: {another}.")


def used_layers(request: Request, manifest: Mapping[str, Any]) -> list[str]:
    """Layers from whose embeddings the subsets were made, that of this subset first."""
    used = [name.removeprefix("embeddings/") for name in manifest["inputs"] if name.startswith("embeddings/")]
    return sorted(used, key=lambda layer: layer != (request.layer or "end"))


def find_stores(request: Request, workdir: Workdir, manifest: Mapping[str, Any]) -> list[str]:
    """Folders of the embeddings from which the subsets were made, as far as they still exist, this subset's first.

    Raises:
      WorkdirError: a folder now holds other embeddings.
      DataError: the manifest of some embeddings is missing.
    """
    folders = []
    for layer in used_layers(request, manifest):
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


def read_ids(stores: Sequence[str], positions: np.ndarray) -> pa.Array | None:
    """The names for these positions [n] in the stores, or None.

    Raises:
      DataError: a position has no name, or names are lost or damaged.
    """
    found = (ids_lib.at(folder, positions) for folder in stores)
    return next((ids for ids in found if ids is not None), None)


def kept_by_fraction(
    request: Request, workdir: Workdir, manifest: Mapping[str, Any], subset: Subset
) -> dict[float, np.ndarray]:
    """Marks the kept images at each fraction, descending, of subsets with the same method, layer and trial.

    Raises:
      DataError: a subset is damaged, or has other images.
    """
    found = {}
    for entry in manifest["files"]:
        if (entry["method"], entry["layer"], entry["trial"]) == (request.method, request.embedding, request.trial):
            path = check_file(workdir.subsets, entry)
            other = read_subset(path)
            if not np.array_equal(other.positions, subset.positions):
                raise DataError(
                    f"{path} holds other images than the subset at {request.fraction:g}. Delete {workdir.subsets} and run "
                    '"redundancy select" again.'
                )
            found[entry["fraction"]] = other.kept
    return dict(sorted(found.items(), reverse=True))


def image_ids(
    request: Request, stores: Sequence[str], subset: Subset, rows: np.ndarray, dataset
) -> tuple[pa.Array | None, str]:
    """Names of the images in `rows` [n] of a subset, [n] string, binary or int64, or None; and their description for the log.

    Raises:
      DataError: names are lost or damaged, or TFDS's ids are requested and the data set has none.
    """
    positions, fingerprint = subset.positions[rows], subset.metadata["fingerprint"] or {}
    asked = request.image_ids or "auto"
    if asked == "none":
        return None, ""
    if asked == "position":
        return pa.array(positions), ", by their positions"
    if asked == "tfds":
        return pa.array(tfds_ids.example_ids(fingerprint, positions)), ", by TFDS's ids"
    if (ids := read_ids(stores, positions)) is not None:
        return ids, ", by their names"
    names = dataset.file_names("train", positions) if dataset is not None else None
    if names is not None:
        return ids_lib.of_files(names), ", by the names of their files"
    # Lists of TFDS's ids are a separate format.
    if request.format not in ("npy", "txt", "folder") and fingerprint.get("files"):
        return pa.array(tfds_ids.example_ids(fingerprint, positions)), ", by TFDS's ids"
    why = "they have no names" if stores else "the embeddings, and with them any names, are no longer there"
    return None, f", by their positions ({why})"
