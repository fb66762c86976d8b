"""Reads labels, class names and ids of other tools: .npy, .csv, .txt or a column of Parquet. Never unpickles."""

import collections
import io
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from redundancy.data import inputs, npy
from redundancy.importing import texts
from redundancy.importing.files import other_kind
from redundancy.runtime.errors import ConfigError, DataError, nearest

READINGS = ("names", "indices")
_ONE_CLASS = "all"
_DECIMAL = re.compile(r"-?[0-9]+\.[0-9]*(e[-+]?[0-9]+)?|nan", re.IGNORECASE)
_NUMERAL = re.compile("-?[0-9]+")
_WANTED = "wanted whole numbers from 0 or names, one for each embedding"


class Labels(NamedTuple):
    """The label of each of N rows as the file has it, in whatever form.

    Attributes:
      where: the file, for messages.
      codes: [N] int, which of `values`.
      values: the different labels, all texts, all whole numbers or all bools.
    """

    where: str
    codes: np.ndarray
    values: Sequence[str] | Sequence[int] | Sequence[bool]

    def rows(self, wrong: np.ndarray) -> np.ndarray:
        """The rows, ascending, of some of the values, [len(values)] bool."""
        return np.flatnonzero(wrong[self.codes])


def one_class(num_rows: int) -> Labels:
    """The labels of rows that have none."""
    return Labels("no labels", np.zeros(num_rows, np.int32), [_ONE_CLASS])


def read_labels(path: str, column: str | None, num_rows: int) -> Labels:
    """The label of each row.

    Args:
      path: .npy, .csv or .txt.
      column: name of the column in a .csv with a header.
      num_rows: how many are wanted.

    Raises:
      ConfigError: there is no such file, or no such kind of file.
      DataError: labels are missing, of another type, or not `num_rows`.
    """
    path = inputs.existing(f"--labels={inputs.shown(path)}", path)
    kind = path.lower()[-4:]
    if column is not None and kind != ".csv":
        raise ConfigError(f"--columns names a column of labels, {column!r}, but {path} is no .csv file.")
    if kind == ".npy":
        values = _npy(path)
    elif kind == ".csv":
        values = pa.array(texts.csv_column(path, column, "label", num_rows), pa.large_string())
    elif kind == ".txt":
        values = pa.array(texts.lines(path), pa.large_string())
    else:
        raise ConfigError(f"--labels={path}{other_kind(path) or ':'} Wanted a .npy, .csv or .txt file.")
    return check_labels(path, values, num_rows)


def check_labels(where: str, values: pa.Array, num_rows: int) -> Labels:
    """The labels of an array; arguments, result and errors as of `read_labels`."""
    values = _plain(where, values, num_rows, "labels")
    kind = values.type
    empty = pc.equal(pc.utf8_trim_whitespace(values), "").fill_null(True) if _is_text(kind) else values.is_null()
    rows, found = np.flatnonzero(empty.to_numpy(zero_copy_only=False)), "no label"
    if pa.types.is_floating(kind) and not len(rows):
        numbers = values.to_numpy()
        rows, found = np.flatnonzero(np.isnan(numbers)), "NaN"
        broken = np.flatnonzero((numbers != np.floor(numbers)) | (np.abs(numbers) >= 2**31))
        if not len(rows):
            if len(broken):
                raise DataError(f"{where}: row {broken[0]} has the label {numbers[broken[0]]}; {_WANTED}.")
            values = pa.array(numbers.astype(np.int64))
    if len(rows):
        raise DataError(
            f"{where}: row {rows[0]} has {found} ({len(rows)} of {num_rows} such rows); {_WANTED}. Leave out what has none."
        )
    if not (_is_text(kind) or pa.types.is_boolean(kind) or pa.types.is_integer(values.type)):
        raise DataError(f"{where}: the labels are {inputs.shown(str(kind))}; {_WANTED}.")
    encoded = values.dictionary_encode()
    different = encoded.dictionary.to_pylist()
    if _is_text(kind):
        inputs.check_names(where, different, "label")
    return Labels(where, encoded.indices.to_numpy(), different)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _plain(where: str, values: pa.Array, num_rows: int, what: str) -> pa.Array:
    """The values without dictionaries, views and types of tools; DataError if they are not `num_rows`, or damaged."""
    try:
        values.validate(full=True)
        values = getattr(values, "storage", values)
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if pa.types.is_string_view(values.type):
            values = values.cast(pa.large_string())
    except pa.ArrowException as error:
        raise DataError(
            f"{where} is damaged ({inputs.shown(str(error).splitlines()[0])}); write the file again."
        ) from error
    if len(values) != num_rows:
        raise DataError(f"{where} has {len(values)} {what}; wanted {num_rows}, as many as there are embeddings.")
    return values


def _numbers(labels: Labels) -> list[float] | None:
    """The values as numbers, bools as 0 and 1, where all are numbers or numerals."""
    values = labels.values
    if not isinstance(values[0], str):
        return [*map(int, values)]
    if all(map(texts.WHOLE.fullmatch, values)):
        return [*map(int, values)]
    if all(texts.WHOLE.fullmatch(value) or _DECIMAL.fullmatch(value) for value in values):
        return [number if (number := float(value)) % 1 else int(number) for value in values]
    return None


def readings(labels: Labels, names: Sequence[str], are: str = "") -> dict[str, np.ndarray]:
    """What the labels may mean as classes of these names.

    Args:
      labels: texts, numbers or bools; where they are in the file makes no difference.
      names: of the classes.
      are: one of READINGS to have it alone, or ''.

    Returns:
      of each reading the class of each of `labels.values`, int32, -1 for none: "names", the place of its text, or of a
      numeral of its value, among the names; "indices", where all labels are numbers or numerals, the number itself.

    Raises:
      DataError: indices are asked for, and a label is no number.
    """
    index = {name: number for number, name in reversed([*enumerate(names)])}
    found = {"names": [index.get(str(value), -1) for value in labels.values]}
    numbers = _numbers(labels)
    if numbers is not None:
        # The folder "007" is 7 in other tools.
        numerals = {int(name): number for name, number in index.items() if _NUMERAL.fullmatch(name)}
        pairs = zip(found["names"], numbers, strict=True)
        found["names"] = [numerals.get(number, -1) if named < 0 else named for named, number in pairs]
        found["indices"] = [number if number in range(len(names)) else -1 for number in numbers]
    elif are == "indices":
        wrong = np.array([not texts.WHOLE.fullmatch(value) for value in labels.values])
        raise DataError(f"{_row_has(labels, wrong)}; --labels-are=indices wants whole numbers. Leave the flag out.")
    return {name: np.array(found[name], np.int32) for name in found if are in ("", name)}


def _row_has(labels: Labels, wrong: np.ndarray) -> str:
    """'FILE: row r has the label ...' for messages, of the first of some values, [len(values)] bool."""
    rows = labels.rows(wrong)
    value = labels.values[int(labels.codes[rows[0]])]
    return f"{labels.where}: row {rows[0]} has the label {value!r} ({len(rows)} of {len(labels.codes)} such rows)"


def encode(labels: Labels, names: Sequence[str] | None, are: str = "") -> tuple[np.ndarray, list[str]]:
    """Labels as numbers, and the names of the classes.

    With `names`, all labels are names or all are indices. Without, labels are numbered by their sorted different values,
    which are the class names; so whole numbers 0…K-1, each present, stay.

    Args:
      labels: as the file has them.
      names: of the classes.
      are: one of READINGS; or '' to find out.

    Returns:
      labels [N] int32, class names.

    Raises:
      DataError: a label is no class, or may be the name of one class and the index of another.
    """
    if names is None:
        return _numbered(labels, are)
    found = readings(labels, names, are)
    by_name, by_index = found.get("names"), found.get("indices")
    if by_name is not None and by_index is not None:
        differ = (by_name >= 0) & (by_index >= 0) & (by_name != by_index)
        if differ.any():
            first = labels.codes[labels.rows(differ)[0]]
            raise DataError(
                f"{_row_has(labels, differ)}, which is the name of class {by_name[first]}, and the index of the class "
                f"{names[by_index[first]]!r}. Say which is meant: --labels-are=names or --labels-are=indices."
            )
    chosen = next((each for each in found.values() if each.min() >= 0), None)
    if chosen is None:
        best = np.maximum.reduce([*found.values()])
        wrong = best < 0 if best.min() < 0 else by_index < 0
        value = labels.values[int(labels.codes[labels.rows(wrong)[0]])]
        hint = nearest(value, names) if isinstance(value, str) else ""
        raise DataError(
            f"{_row_has(labels, wrong)}; wanted for each row one of the {len(names)} class names, or for each a number from "
            f"0 to {len(names) - 1}.{hint}"
        )
    return chosen[labels.codes], list(names)


def _numbered(labels: Labels, are: str) -> tuple[np.ndarray, list[str]]:
    """As `encode` without names."""
    numbers = None if are == "names" or isinstance(labels.values[0], bool) else _numbers(labels)
    keys = [str(value) for value in labels.values] if numbers is None else numbers
    if numbers is not None:
        wrong = np.array([not isinstance(number, int) or number < 0 for number in numbers])
        if wrong.any():
            names = " If these are names, give --labels-are=names." if isinstance(labels.values[0], str) else ""
            raise DataError(f"{_row_has(labels, wrong)}; {_WANTED}. Leave out what has no label.{names}")
    found = sorted(set(keys))
    index = {key: number for number, key in enumerate(found)}
    return np.array([index[key] for key in keys], np.int32)[labels.codes], [*map(str, found)]


def read_class_names(path: str) -> list[str]:
    """The names in a text file, one a line, of the labels 0, 1, …; raises as `read_labels`."""
    path = inputs.existing(f"--class-names={inputs.shown(path)}", path)
    names = texts.lines(path)
    empty = next((number for number, name in enumerate(names, 1) if not name.strip()), None)
    if not names or empty:
        raise DataError(f"{path}: {f'line {empty} is empty' if empty else 'no names'}; wanted one class name a line.")
    twice, times = collections.Counter(names).most_common(1)[0]
    if times > 1:
        raise DataError(
            f"{path}: the class name '{inputs.shown(twice)}' is there more than once; wanted different names."
        )
    inputs.check_names(path, names)
    return names


def read_ids(path: str, column: str | None, num_rows: int) -> pa.Array:
    """The id of each row, from a text file, one a line, or a column of a .csv; as `check_ids`."""
    path = inputs.existing(f"--ids={inputs.shown(path)}", path)
    if path.lower().endswith(".csv"):
        values = texts.csv_column(path, column, "id", num_rows)
    elif column is not None:
        raise ConfigError(f"--columns names a column of ids, {column!r}, but --ids={path} is no .csv file.")
    elif path.lower().endswith((".npy", ".npz", ".parquet")):
        raise ConfigError(f"--ids={path}: wanted a text file with one id a line, or a .csv file.")
    else:
        values = texts.lines(path)
    return check_ids(path, pa.array(values, pa.large_string()), num_rows)


def check_ids(where: str, values: pa.Array, num_rows: int) -> pa.Array:
    """The ids as [num_rows] large_string.

    Raises:
      DataError: they are not `num_rows`, or one is missing, empty, doubled, has a line break, or is no text or number.
    """
    values = _plain(where, values, num_rows, "ids")
    if not (_is_text(values.type) or pa.types.is_integer(values.type)):
        raise DataError(f"{where}: the ids are {inputs.shown(str(values.type))}; wanted texts or whole numbers.")
    values = values.cast(pa.large_string()).fill_null("")
    empty = pc.equal(pc.utf8_trim_whitespace(values), "").to_numpy(zero_copy_only=False)
    broken = pc.match_substring_regex(values, "[\\r\\n]").to_numpy(zero_copy_only=False)
    for wrong, what in ((empty, "is empty"), (broken, "has a line break in it")):
        if wrong.any():
            raise DataError(
                f"{where}: the id of row {int(np.argmax(wrong))} {what} ({int(wrong.sum())} of {num_rows} such ids); wanted a "
                "different id of one line for each embedding."
            )
    counts = pc.value_counts(values)
    twice = np.flatnonzero(counts.field("counts").to_numpy() > 1)
    if len(twice):
        value = counts.field("values")[int(twice[0])]
        rows = np.flatnonzero(pc.equal(values, value).to_numpy(zero_copy_only=False))
        raise DataError(
            f"{where}: the rows {rows[0]} and {rows[1]} have the same id '{inputs.shown(value.as_py())}' ({len(twice)} ids "
            "are there more than once); wanted a different id for each embedding."
        )
    return values


def _npy(path: str) -> pa.Array:
    data = inputs.read_bytes(path)
    try:
        array = npy.read_array(io.BytesIO(data), len(data))
    except npy.NotAnArrayError as error:
        raise DataError(f"{path} {error}; {_WANTED}, as numpy.save writes arrays of numbers or texts.") from error
    return from_array(path, array)


def from_array(where: str, array: np.ndarray) -> pa.Array:
    """Numbers, bools or texts [N] or [N, 1] for `check_labels`; raises DataError if they are of another type or shape."""
    kind = array.dtype
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or kind.kind not in "biufUS" or (kind.kind == "f" and kind.itemsize > 8):
        raise DataError(f"{where} is {inputs.shown(str(kind))} {list(array.shape)}; {_WANTED}, as an array [N].")
    if kind.kind not in "US":
        return pa.array(array.astype(kind.newbyteorder("=")))
    try:
        return pa.array((np.char.decode(array, "utf-8") if kind.kind == "S" else array).tolist(), pa.large_string())
    except UnicodeDecodeError as error:
        # Replaced characters would make one class of several.
        raise DataError(
            f"{where}: the label {inputs.shown(str(error.object))} is no UTF-8 text ({error.reason}); {_WANTED}. Decode the "
            "labels and save them as texts, numpy.char.decode(labels, ENCODING)."
        ) from error
    except Exception as error:  # halves of surrogate pairs; several kinds for numbers that are no characters
        raise DataError(f"{where} holds a label that is no text ({inputs.shown(str(error))}); {_WANTED}.") from error
