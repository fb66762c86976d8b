"""Reads a finished workdir, local or on gs://, as arrays and tables. Writes nothing and takes no lease."""

import os
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv

from redundancy import methods, storage
from redundancy.config import FIELDS, LAYERS
from redundancy.data import inputs
from redundancy.export import request, sources
from redundancy.interface.clustering import check_fraction
from redundancy.linkage.batches import batches
from redundancy.runtime.errors import ConfigError, DataError, WorkdirError
from redundancy.runtime.paths import given_path
from redundancy.selection.inputs import open_store
from redundancy.selection.subset import Subset, check_file, read_subset
from redundancy.workdir import Workdir, need_manifest, need_results

if TYPE_CHECKING:
    from redundancy.linkage.complete import Merges


class Embeddings(NamedTuple):
    """The embeddings of one layer, by ascending position.

    Attributes:
      vectors: [N, d] float32.
      labels: [N] int32.
      positions: [N] int64, positions of the images in the stored training split.
      class_names: name of each label.
    """

    vectors: np.ndarray
    labels: np.ndarray
    positions: np.ndarray
    class_names: list[str]


def _open(workdir: str | os.PathLike) -> Workdir:
    if not isinstance(workdir, str | os.PathLike) or isinstance(path := os.fspath(workdir), bytes):
        raise ConfigError(f"workdir is {workdir!r}; wanted a path.")
    path = given_path("workdir", path)
    if storage.is_local(path) and not os.path.isdir(storage.local_path(path)):
        raise WorkdirError(f"{path} is no workdir: there is no such folder. Check the path.")
    return Workdir(path)


def _check_layer(layer: str) -> None:
    if layer not in LAYERS:
        raise ConfigError(f"layer is {layer!r}; wanted {FIELDS['layers'].wanted}.")


def load_subset(
    workdir: str | os.PathLike,
    fraction: float,
    *,
    method: str = methods.DEFAULT[0],
    layer: str | None = None,
    trial: int | None = None,
) -> Subset:
    """A subset that `redundancy select` wrote, checked as `redundancy export` checks it.

    Args:
      workdir: workdir with finished subsets.
      fraction: kept share, one of those that were selected.
      method: method that chose the subset.
      layer: layer of the embeddings that the method read: start, middle or end; None is end, or no layer if it reads none.
      trial: number of the trial, for a random method.

    Returns:
      All N training images by ascending position: positions [N] int64, labels [N] int32, kept [N] bool, group [N] int64,
      dissimilarity [N] float64, metadata; and kept_positions [n] int64, the list that `redundancy export` writes.

    Raises:
      ConfigError: there is no such subset; lists the existing ones. A ValueError.
      WorkdirError: the stage select has not finished.
      DataError: a file is damaged; a ValueError.
    """
    methods.need(method, "method")
    wanted = request.Request(check_fraction(fraction), request.FORMATS[0], "", method, layer, trial)
    request.check(wanted)
    opened = _open(workdir)
    manifest = need_manifest(opened.subsets, "select", inputs=dict, files=list)
    return read_subset(check_file(opened.subsets, sources.find_entry(wanted, opened, manifest)))


def load_embeddings(workdir: str | os.PathLike, layer: str = "end") -> Embeddings:
    """The embeddings that `redundancy embed` or `redundancy import` wrote, all in memory.

    Raises:
      WorkdirError: they are not finished, or of a data set other than the workdir's.
      DataError: a file is damaged, or they do not fit in memory; a ValueError.
      ConfigError: there is no such layer; a ValueError.
    """
    _check_layer(layer)
    store = open_store(_open(workdir), layer)
    rows = store.num_examples + max(store.class_counts.values(), default=0)  # all, plus the class that is being read
    inputs.check_memory(store.folder, "all embeddings", 4 * rows * store.dimension)
    positions, labels = store.labels()
    vectors = np.empty((len(positions), store.dimension), np.float32)
    for some in batches(store.class_counts):
        _, of_classes, found = store.read_classes(some)
        vectors[np.searchsorted(positions, of_classes)] = found
    return Embeddings(vectors, labels, positions, store.manifest["class_names"])


def load_merges(workdir: str | os.PathLike, layer: str = "end") -> dict[int, "Merges"]:
    """The merges that `redundancy link` wrote: for each label left, right, height and size, lowest first.

    Raises:
      WorkdirError: the stage link has not finished.
      DataError: a file is damaged; a ValueError.
      ConfigError: there is no such layer; a ValueError.
    """
    from redundancy.selection import merges  # imports JAX

    _check_layer(layer)
    folder = _open(workdir).merges(layer)
    manifest = need_manifest(folder, "link", classes=dict, parts=list)
    return dict(merges.read(folder, manifest["parts"], map(int, manifest["classes"])))


def load_results(workdir: str | os.PathLike) -> pa.Table:
    """The table results.csv that `redundancy sweep` wrote, with one row per training, see docs/reference/artifacts.md.

    Raises:
      WorkdirError: the stage sweep has not finished.
      DataError: the table is damaged, or was changed since the sweep; a ValueError.
    """
    opened = _open(workdir)
    data = need_results(opened)
    try:
        return pyarrow.csv.read_csv(pa.BufferReader(data))
    except pa.ArrowException as error:
        raise DataError(f'{opened.results} is damaged ({error}). Run "redundancy sweep" again.') from error
