"""A subset on disk: for every training image, whether it is kept, its group, and its dissimilarity to the kept image."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from redundancy import storage
from redundancy.runtime.errors import DataError

_METADATA = "subset"
_COLUMNS = {
    "position": pa.int64(), "label": pa.int32(), "group": pa.int64(), "kept": pa.bool_(), "dissimilarity": pa.float64(),
}  # fmt: skip
_REMEDY = 'Delete its folder and run "redundancy select" again.'


@dataclasses.dataclass(frozen=True)
class Subset:
    """All N training images by ascending position, and which of them a method keeps.

    Attributes:
      positions: [N] int64 ascending.
      labels: [N] int32.
      group: [N] int64, number of the redundant group, unique over the classes; -1 if the method has no groups.
      kept: [N] bool.
      dissimilarity: [N] float64, to the kept image of the group, 0 for that image; NaN if there are no groups.
      metadata: method, layer, fraction, size, seed, trial, rule, num_stored, fingerprint; None for those that do not apply.
    """

    positions: np.ndarray
    labels: np.ndarray
    group: np.ndarray
    kept: np.ndarray
    dissimilarity: np.ndarray
    metadata: dict[str, Any]

    @property
    def kept_positions(self) -> np.ndarray:
        """[size] int64, ascending."""
        return self.positions[self.kept]


def write_subset(path: str, subset: Subset) -> str:
    """Writes the subset atomically and returns the file's SHA-256; equal subsets give the same bytes."""
    columns = (subset.positions, subset.labels, subset.group, subset.kept, subset.dissimilarity)
    arrays = [
        # Null instead of NaN, since most tools return NaN as the mean of a column with NaN.
        pa.array(values, kind, mask=np.isnan(values) if name == "dissimilarity" else None)
        for (name, kind), values in zip(_COLUMNS.items(), columns, strict=True)
    ]
    metadata = {_METADATA: json.dumps(subset.metadata, sort_keys=True)}
    return storage.write_parquet(path, [pa.table(arrays, names=list(_COLUMNS))], metadata)


def check_file(folder: str, entry: Mapping[str, Any]) -> str:
    """Checks a file against its manifest's entry, which has the keys file and sha256; returns the path.

    Raises:
      DataError: the file is missing, or has another checksum.
    """
    path = storage.join(folder, entry["file"])
    storage.check_sha256(path, entry["sha256"], f'Delete {folder} and run "redundancy select" again.')
    return path


def need_subset(folder: str, files: Sequence[Mapping[str, Any]], name: str) -> Subset:
    """Reads the subset `name`, which must be among a manifest's files.

    Raises:
      DataError: the manifest has no such file, or the file has another checksum or is damaged.
    """
    entry = next((entry for entry in files if entry["file"] == f"{name}.parquet"), None)
    if entry is None:
        raise DataError(
            f'{storage.join(folder, "manifest.json")} has no {name}. Delete {folder} and run "redundancy select" again.'
        )
    return read_subset(check_file(folder, entry))


def _check(path: str, subset: Subset) -> None:
    positions, num_stored = subset.positions, subset.metadata["num_stored"]
    if not len(positions) or not subset.kept.any():
        raise DataError(f"{path} keeps none of {len(positions)} images; wanted at least one. {_REMEDY}")
    falling = np.flatnonzero(np.diff(positions) <= 0)
    if len(falling):
        raise DataError(
            f"{path}: position {positions[falling[0] + 1]} in row {falling[0] + 1} is not above the one before it, "
            f"{positions[falling[0]]}; wanted ascending positions, each once. {_REMEDY}"
        )
    if positions[0] < 0 or positions[-1] >= num_stored:
        outside = positions[0] if positions[0] < 0 else positions[-1]
        raise DataError(f"{path} has position {outside}; wanted 0…{num_stored - 1}, those of the data set. {_REMEDY}")
    size = np.count_nonzero(subset.kept)
    if size != subset.metadata["size"]:
        raise DataError(f"{path} keeps {size} images, its metadata says {subset.metadata['size']}. {_REMEDY}")
    if subset.group.min() >= 0:
        group, members = np.unique(subset.group, return_counts=True)
        kept_group, kept_members = np.unique(subset.group[subset.kept], return_counts=True)
        if len(group) != len(kept_group) or kept_members.max() > 1:
            raise DataError(
                f"{path} has {len(group)} groups (the largest of {members.max()}) and keeps images of "
                f"{len(kept_group)}, up to {kept_members.max()} of one; wanted one of each. {_REMEDY}"
            )


def read_subset(path: str) -> Subset:
    """Reads what `write_subset` wrote.

    Raises:
      DataError: the file is missing or damaged, lacks a column or its metadata, or positions are out of range, out of order
        or repeated.
    """
    table = storage.read_parquet(path, list(_COLUMNS))
    found = storage.parquet_metadata(table)
    metadata: Mapping[str, Any] = json.loads(found.get(_METADATA, "{}"))
    missing = [
        name for name in ("method", "layer", "fraction", "size", "num_stored", "fingerprint") if name not in metadata
    ]
    if missing:
        raise DataError(
            f"{path}: the metadata has no {missing[0]!r}; it was not written by redundancy select. {_REMEDY}"
        )
    for name, kind in _COLUMNS.items():
        column = table[name]
        if column.type != kind or (name != "dissimilarity" and column.null_count):
            raise DataError(
                f"{path}: column {name} is {column.type} with {column.null_count} empty values; wanted {kind}. {_REMEDY}"
            )
    subset = Subset(*(table[name].to_numpy() for name in _COLUMNS), metadata=dict(metadata))
    _check(path, subset)
    return subset


def mean_dissimilarity(subset: Subset) -> tuple[dict[int, float], float]:
    """The paper's Table 1: for each group of two or more, the mean dissimilarity of the dropped images to the kept one.

    Args:
      subset: subset of a method that has groups.

    Returns:
      The mean over the groups of each label that has such a group, and the mean over all such groups (NaN if there is none).
    """
    dropped = ~subset.kept
    group = subset.group[dropped]
    redundant, first, number, count = np.unique(group, return_index=True, return_inverse=True, return_counts=True)
    mean = np.bincount(number, weights=subset.dissimilarity[dropped], minlength=len(redundant)) / count
    label = subset.labels[dropped][first]
    by_label = {of_class: float(mean[label == of_class].mean()) for of_class in np.unique(label).tolist()}
    return by_label, float(mean.mean()) if len(mean) else float("nan")
