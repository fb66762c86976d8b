"""Reads scores and lists of kept images, with ids and labels, from files of other tools. Never unpickles."""

import dataclasses
import io
import json
import re
import zipfile
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from redundancy.data import inputs, npy
from redundancy.importing import columns, texts
from redundancy.importing import files as kinds
from redundancy.importing import labels as labels_lib
from redundancy.runtime.errors import ConfigError, DataError, UserError, nearest

_FORMATS = "a .npy, .npz, .csv, .tsv, .txt, .json or Parquet file"


@dataclasses.dataclass(frozen=True)
class Request:
    """What to import.

    Attributes:
      name: name of the score, which the method score_NAME reads.
      scores: path of the file.
      key: name of the array in an .npz file.
      score_column, id_column, label_column: names of columns of a table.
      labels, ids: files with one value for each score, in the same order.
      order: "stored", "class" or "names": the order of the scores, if there are no ids.
      keep: "high" or "low", the scores that the method score_NAME keeps first.
      ranking: whether the file holds image numbers in ascending order of score, instead of scores.
      kept: whether the file lists the kept images, by number or name.
      overwrite: whether to replace a score of this name.
    """

    name: str
    scores: str
    key: str | None = None
    score_column: str | None = None
    id_column: str | None = None
    label_column: str | None = None
    labels: str | None = None
    ids: str | None = None
    order: str | None = None
    keep: str = "high"
    ranking: bool = False
    kept: bool = False
    overwrite: bool = False


@dataclasses.dataclass(frozen=True)
class Given:
    """The contents of a file: values [n] or [n, T] float64, or texts; ids and labels in the same order, if there are any."""

    values: np.ndarray | list[str]
    ids: list[str] | None = None
    labels: columns.Column | None = None


def _table(path: str) -> dict[str, list]:
    """Reads a .csv or .tsv with a header into columns of texts."""
    rows, _ = texts.rows(path)
    if len(rows) < 2:
        raise DataError(f"{path} has {len(rows)} lines; wanted a header and a line for each image.")
    header = rows[0][0]
    _check_columns(path, header)
    if wrong := next(((row, line) for row, line in rows if len(row) != len(header)), None):
        raise DataError(f"{path}: line {wrong[1]} has {len(wrong[0])} values; wanted {len(header)}, as in the header.")
    return {name: [row[at] for row, _ in rows[1:]] for at, name in enumerate(header)}


def _check_columns(path: str, names: Sequence[str]) -> None:
    """Raises DataError if there are no columns, or two with the same name."""
    if not names or len({*names}) < len(names):
        raise DataError(
            f"{path} has the columns {inputs.shown(', '.join(names)) or 'none'}; wanted some, each of another name."
        )


def _numbers(where: str, values: Sequence) -> np.ndarray:
    try:
        return np.array([np.nan if value is None else float(value) for value in values], np.float64)
    except (OverflowError, TypeError, ValueError) as error:
        raise DataError(f"{where}: {inputs.shown(str(error))}; wanted a number for each image.") from error


def _column(path: str, there: Sequence[str], wanted: str | None, flag: str, guesses: Sequence[str]) -> str | None:
    """The column that a flag names, or else one with a usual name; raises ConfigError if the named column is missing."""
    if wanted is None:
        return next((name for name in there if name.lower() in guesses), None)
    if wanted not in there:
        raise ConfigError(
            f"--{flag}={wanted}: {path} has no such column.{nearest(wanted, there)} Columns: {', '.join(there)}."
        )
    return wanted


def _of_table(request: Request, path: str, table: dict[str, Sequence]) -> Given:
    """Scores, ids and labels from the columns of a table."""
    there = list(table)
    ids = _column(
        path, there, request.id_column, "id-column", ("id", "sample_id", "image", "filename", "file", "path", "name")
    )
    label = _column(path, there, request.label_column, "label-column", ("label", "class", "target", "y"))
    if request.kept:
        column = request.score_column or ids or there[0]
        return Given([str(value) for value in table[_column(path, there, column, "score-column", ())]])
    score = _column(path, there, request.score_column, "score-column", ("score", "aum", "value", request.name))
    left = [name for name in there if name not in (ids, label)]
    if score is None and len(left) != 1:
        raise ConfigError(f"{path} has columns {', '.join(there)}: which is the score? Say --score-column=NAME.")
    score = score or left[0]
    of_labels = None
    if label is not None:
        of_labels = columns.Column(f"{path}, column {label!r}", columns.exact(path, pa.array(list(table[label]))))
    return Given(
        _numbers(f"{path}, column {score!r}", table[score]),
        None if ids is None else [str(value) for value in table[ids]],
        of_labels,
    )


def _arrays(request: Request, path: str) -> Given:
    """Scores from a .npy file, or from an array of an .npz file, in which --label-column may name an array of labels."""
    data = inputs.read_bytes(path)
    try:
        if kinds.kind(path) == ".npy":
            return _of_array(request, path, npy.read_array(io.BytesIO(data), len(data)))
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            there = {name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()}
    except UserError:
        raise
    except npy.NotAnArrayError as error:
        raise DataError(f"{path} {error}; wanted an array of numbers.") from error
    except Exception as error:  # zipfile raises many kinds of exceptions for damaged archives
        raise DataError(f"{path}: {inputs.shown(str(error))}; wanted an array of numbers.") from error
    wanted = request.key or (next(iter(there)) if len(there) == 1 else None)
    if wanted not in there:
        raise ConfigError(
            f"--key={request.key or ''}: {path} has the arrays {', '.join(there)}; name the one of the scores."
        )

    def read(name: str) -> np.ndarray:
        try:
            return npy.read_array(io.BytesIO(there[name]), len(there[name]))
        except npy.NotAnArrayError as error:
            raise DataError(f"{path}, array {name!r}: {error}; wanted numbers.") from error

    given = _of_array(request, f"{path}, array {wanted!r}", read(wanted))
    label = _column(path, list(there), request.label_column, "label-column", ())
    if label is None:
        return given
    where = f"{path}, array {label!r}"
    return dataclasses.replace(
        given, labels=columns.Column(where, columns.exact(where, columns.from_array(where, read(label))))
    )


def _of_array(request: Request, where: str, array: np.ndarray) -> Given:
    if request.kept and array.dtype.kind in "US":
        return Given([str(value) for value in array.ravel()])
    if array.dtype.kind not in "biuf" or array.ndim not in (1, 2) or (array.ndim == 2 and request.kept):
        raise DataError(
            f"{where} is {inputs.shown(str(array.dtype))} {list(array.shape)}; wanted numbers [N], or [N, T] of T networks."
        )
    if request.kept and array.dtype.kind == "b":
        return Given(array)
    if array.ndim == 2 and not array.shape[1]:
        raise DataError(f"{where} has no column; wanted one for each network.")
    return Given(array.astype(np.float64))


def read(request: Request) -> Given:
    """Reads the file of a request.

    Raises:
      ConfigError: there is no such file, column or array, or the kind of file is unknown.
      DataError: the file is damaged, or holds no numbers.
    """
    path = inputs.existing(f"--scores={inputs.shown(request.scores)}", request.scores)
    kind, end = kinds.kind(path), kinds.ending(path)
    if kind in (".npy", ".npz"):
        given = _arrays(request, path)
    elif kind == ".parquet":
        try:
            table = pq.read_table(path)
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{path} cannot be read as Parquet ({inputs.shown(str(error).splitlines()[0])})."
            ) from error
        _check_columns(path, table.column_names)
        given = _of_table(request, path, {name: table[name].to_pylist() for name in table.column_names})
    elif kind not in ("", ".csv"):
        raise ConfigError(f"--scores={path}{kinds.other_kind(path) or ':'} Wanted {_FORMATS}.")
    elif end == ".json":
        try:
            found = json.loads(texts.text(path))
        except ValueError as error:
            raise DataError(f"{path} is no JSON ({error}).") from error
        if isinstance(found, list):
            given = Given([str(each) for each in found] if request.kept else _numbers(path, found))
        elif isinstance(found, dict):
            given = Given(_numbers(path, [*found.values()]), [*found])
        else:
            raise DataError(
                f"{path} holds {type(found).__name__}; wanted a list of scores, or an object of scores by id."
            )
    elif texts.is_csv(path):
        given = _of_table(request, path, _table(path))
    else:  # one per line; in a list of files a label may follow after a blank, as Dyn-Unc writes it
        lines = [line.strip() for line in texts.lines(path)]
        listed = [re.sub(r"\s+-?[0-9]+$", "", line) for line in lines if line]
        given = Given(listed if request.kept else _numbers(path, lines))
    n = len(given.values)
    if request.ids is not None:
        found = labels_lib.check_ids(columns.read(request.ids, None, "id", n))
        given = dataclasses.replace(given, ids=[str(each) for each in found.to_pylist()])
    if request.labels is not None:
        given = dataclasses.replace(given, labels=columns.read(request.labels, None, "label", n))
    return given
