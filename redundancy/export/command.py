"""Writes the images that a subset keeps or drops, its groups or its embeddings."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from absl import logging

from redundancy import storage
from redundancy.data.tfds import ids as tfds_ids
from redundancy.embedding import ids as ids_lib
from redundancy.embedding.store import EmbeddingStore
from redundancy.export import files, groups, lists, projector, sources
from redundancy.export.request import OF_ALL, Request, check, check_output, write
from redundancy.methods.counts import beyond_fraction
from redundancy.runtime.errors import ConfigError, WorkdirError
from redundancy.selection.subset import Subset, check_file, read_subset
from redundancy.workdir import Workdir, need_manifest, read_manifest


def export(request: Request, workdir: Workdir, config=None) -> None:
    """Writes the images that a finished subset keeps, in ascending order of their positions, to `request.output`.

    npy, txt: the names of the images, see `sources.image_ids`, or their positions. csv, parquet: a row for each image with
    position, label, class (its name), id (the image's name, if known), group and dissimilarity to the group's kept image (null
    for random subsets), kept. folder: links to the files, or copies, see `files.write`. tfds: TFDS's own example id, one per
    line. groups-csv, groups-parquet: a row for every image, see `groups.make_table`. projector: a folder, see
    `projector.write`.

    Args:
      request: the request.
      workdir: workdir with finished subsets.
      config: resolved config of the data set, for thumbnails and for file names that the workdir does not have; or None.

    Raises:
      ConfigError: there is no such subset, or `output` already exists or cannot be written.
      WorkdirError: the stage select has not finished, the embeddings of the subset were replaced, or the config is of
        another data set.
      DataError: an artifact is damaged, or the data set has no TFDS ids.
    """
    check(request)
    manifest = need_manifest(workdir.subsets, "select", inputs=dict, files=list)
    entry = sources.find_entry(request, workdir, manifest)
    check_output(request)
    subset = read_subset(check_file(workdir.subsets, entry))
    sizes = np.unique(subset.labels, return_counts=True)[1]
    if said := beyond_fraction(sizes, subset.metadata["fraction"], subset.metadata["size"]):
        logging.warning("export: %s.", said)
    if request.format in OF_ALL:
        _export_all(request, workdir, manifest, subset, config)
        return
    rows = np.flatnonzero(~subset.kept if request.dropped else subset.kept)
    stores = [] if request.format == "tfds" else sources.find_stores(request, workdir, manifest)
    if request.format == "tfds":
        ids, said = pa.array(tfds_ids.example_ids(subset.metadata["fingerprint"] or {}, subset.positions[rows])), ""
    else:
        ids, said = sources.image_ids(request, stores, subset, rows, _dataset(workdir, subset, config))
    names = pa.array(subset.positions[rows]) if ids is None else ids
    match request.format:
        case "npy":
            write(request, lists.npy(names))
        case "txt" | "tfds":
            write(request, ids_lib.lines(names, request.null))
        case "folder":
            files.write(request, ids, files.classes(subset, rows, _class_names(stores)), workdir, config)
        case _:
            table = groups.make_rows(subset, rows, ids, _class_names(stores))
            write(request, groups.csv_bytes(table) if request.format == "csv" else _parquet(table, subset))
    what = "dropped" if request.dropped else "kept"
    logging.info("export: %d of %d images %s, in %s%s", len(rows), len(subset.positions), what, request.output, said)


def _dataset(workdir: Workdir, subset: Subset, config):
    """The data set of a config, None without a config; raises WorkdirError if it is not the data set of the subset."""
    if config is None:
        return None
    from redundancy.data import shared_dataset

    dataset = shared_dataset(workdir.known(config))
    workdir.check_fingerprint(subset.metadata["fingerprint"] or {}, dataset.fingerprint, workdir.subsets)
    return dataset


def _parquet(table: pa.Table, subset: Subset) -> bytes | memoryview:
    return storage.parquet_bytes([table], {"subset": json.dumps(subset.metadata, sort_keys=True)})


def _class_names(stores: Sequence[str]) -> list[str] | None:
    return read_manifest(stores[0], class_names=list)["class_names"] if stores else None


def _export_all(request: Request, workdir: Workdir, manifest: Mapping[str, Any], subset: Subset, config) -> None:
    """Writes the formats that contain all images of a subset; raises as `export`."""
    stores = sources.find_stores(request, workdir, manifest)
    dataset = _dataset(workdir, subset, config)
    ids, said = sources.image_ids(request, stores, subset, np.arange(len(subset.positions)), dataset)
    table = groups.make_table(
        subset, sources.kept_by_fraction(request, workdir, manifest, subset), ids, _class_names(stores)
    )
    if request.format == "projector":
        layer = request.embedding or sources.used_layers(request, manifest)[0]
        folder = workdir.embeddings(layer)
        if folder not in stores:
            raise WorkdirError(f'{folder} has no embeddings, which the projector shows. Run "redundancy embed" again.')
        try:
            said += projector.write(request.output, table, EmbeddingStore(folder), dataset, request.limit)
        except OSError as error:
            raise ConfigError(
                f"--output={request.output} cannot be written ({error.strerror or error}). Choose a folder elsewhere."
            ) from error
    else:
        write(request, groups.csv_bytes(table) if request.format == "groups-csv" else _parquet(table, subset))
    logging.info("export: %d images in %s%s", table.num_rows, request.output, said)
