"""Scores on disk: scores/NAME.parquet, a row for each training image, and scores/manifest.json, which lists them."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from redundancy import methods, storage
from redundancy.runtime.errors import DataError, WorkdirError
from redundancy.workdir import Workdir, read_manifest, write_manifest

_METADATA = "score"
KEEP = ("high", "low", "listed")


@dataclasses.dataclass(frozen=True)
class Score:
    """A score of all N training images, by ascending position.

    Attributes:
      name: name of the score and of its file.
      positions: [N] int64 ascending.
      labels: [N] int32.
      values: [N] float64, without NaN.
      keep: "high" or "low", the scores that are kept first; or "listed": 1 marks the images of a list, 0 all others.
      each: [N, T] float64, the scores of the T networks, of which `values` is the mean; None for one network or an import.
      made: JSON that describes how it was made: fingerprint, num_stored, and networks or source.
    """

    name: str
    positions: np.ndarray
    labels: np.ndarray
    values: np.ndarray
    keep: str
    made: Mapping[str, Any]
    each: np.ndarray | None = None

    @property
    def priority(self) -> np.ndarray:
        """[N] float64; images with the highest priority are kept first."""
        return -self.values if self.keep == "low" else self.values


def check_made(config, workdir: Workdir, score: Score, trainings: Sequence[str] | None = None) -> None:
    """Raises WorkdirError if our networks made a score with other values of config fields, or by other trainings.

    Args:
      trainings: digests of the networks' trainings; None if unknown.
    """
    fields = [name for name in methods.NETWORK_FIELDS if score.made.get(name) != config[name]]
    if fields or (trainings is not None and list(score.made.get("trainings", ())) != [*trainings]):
        shown = "; ".join(f"{name}: {score.made.get(name)} there, {config[name]} now" for name in fields)
        raise WorkdirError(
            f"{path(workdir, score.name)} was made by other networks ({shown or 'their recipe differs'}). Give the recorded "
            f"values; or delete {workdir.scores} to make the scores again."
        )


def path(workdir: Workdir, name: str) -> str:
    return storage.join(workdir.scores, f"{name}.parquet")


def write(workdir: Workdir, score: Score) -> None:
    """Writes a score and lists it in the manifest; replaces a score of the same name."""
    columns = {"position": pa.array(score.positions, pa.int64()), "label": pa.array(score.labels, pa.int32())}
    columns["score"] = pa.array(score.values, pa.float64())
    for number, values in enumerate(score.each.T if score.each is not None else ()):
        columns[f"score_{number}"] = pa.array(np.ascontiguousarray(values), pa.float64())
    metadata = {_METADATA: json.dumps({"name": score.name, "keep": score.keep, **score.made}, sort_keys=True)}
    sha256 = storage.write_parquet(path(workdir, score.name), [pa.table(columns)], metadata)
    others = [entry for entry in listed(workdir).values() if entry["file"] != f"{score.name}.parquet"]
    entry = {"file": f"{score.name}.parquet", "sha256": sha256, "keep": score.keep}
    write_manifest(workdir.scores, {"scores": sorted([*others, entry], key=lambda each: each["file"])})


def listed(workdir: Workdir) -> dict[str, dict[str, Any]]:
    """The manifest's entries by the name of the score; {} if there is no manifest.

    Raises:
      DataError: the manifest is damaged.
    """
    manifest = read_manifest(workdir.scores, scores=list) or {"scores": []}
    found = {}
    for entry in manifest["scores"]:
        sound = isinstance(entry, dict) and isinstance(entry.get("sha256"), str) and isinstance(entry.get("file"), str)
        name = entry["file"].removesuffix(".parquet") if sound else ""
        if (
            not sound
            or entry["file"] != f"{name}.parquet"
            or methods.find(name) is None
            or entry.get("keep") not in KEEP
        ):
            raise DataError(
                f"{workdir.scores}/manifest.json, in scores, has {str(entry)[:200]}: it was not written by this program, or "
                "was changed since. Delete it and run the stage that writes it again."
            )
        found[name] = entry
    return found


def read(workdir: Workdir, name: str) -> Score:
    """The score with this name.

    Raises:
      WorkdirError: there is no such score.
      DataError: its file is missing or damaged, or does not hold a score.
    """
    entry = listed(workdir).get(name)
    if entry is None:
        if name.startswith(methods.IMPORTED):
            short = name.removeprefix(methods.IMPORTED)
            raise WorkdirError(
                f"{workdir.scores} has no {name}.parquet: import the score first, "
                f'"redundancy scores import --workdir {workdir.root} --name {short} --scores FILE".'
            )
        raise WorkdirError(f'{workdir.scores} has no {name}.parquet: run "redundancy score" with this workdir first.')
    where = path(workdir, name)
    remedy = f"Delete {where} and {workdir.scores}/manifest.json, and make or import the scores again."
    storage.check_sha256(where, entry["sha256"], remedy)
    table = storage.read_parquet(where, None)
    made = json.loads(storage.parquet_metadata(table).get(_METADATA, "{}"))
    for column, kind in {"position": pa.int64(), "label": pa.int32(), "score": pa.float64()}.items():
        if column not in table.column_names or table[column].type != kind or table[column].null_count:
            raise DataError(
                f"{where} has no whole column {column} of {kind}: it was not written by this program. {remedy}"
            )
    positions, labels, values = (table[column].to_numpy() for column in ("position", "label", "score"))
    if np.isnan(values).any() or (np.diff(positions) <= 0).any() or not isinstance(made.get("fingerprint"), dict):
        raise DataError(f"{where} has NaN, positions out of order or no metadata: it was changed since. {remedy}")
    several = [column for column in table.column_names if column.startswith("score_")]
    each = np.stack([table[column].to_numpy() for column in several], axis=1) if several else None
    keep = made.pop("keep", "high")
    made.pop("name", None)
    return Score(name, positions, labels, values, keep, made, each)
