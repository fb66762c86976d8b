"""Interprets columns of labels and ids from other tools: as classes with names, and as unique names of images."""

import collections
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from absl import logging

from redundancy.data import inputs
from redundancy.importing import texts
from redundancy.importing.columns import Column, is_text
from redundancy.runtime.errors import DataError, nearest

READINGS = ("names", "indices")
_ONE_CLASS = "all"
_DECIMAL = re.compile(r"-?[0-9]+\.[0-9]*(e[-+]?[0-9]+)?|nan", re.IGNORECASE)
_NUMERAL = re.compile("-?[0-9]+")
_WANTED = "wanted whole numbers from 0 or names, one for each embedding"


class Labels(NamedTuple):
    """The labels of N rows, in the form that the file has.

    Attributes:
      where: the file, for messages.
      codes: [N] int, index in `values`.
      values: the different labels: all texts, all integers or all bools.
      class_names: names of the labels 0, 1, …, if the file has them.
    """

    where: str
    codes: np.ndarray
    values: Sequence[str] | Sequence[int] | Sequence[bool]
    class_names: Sequence[str] | None = None

    def rows(self, wrong: np.ndarray) -> np.ndarray:
        """The rows, ascending, whose values are marked in `wrong`, [len(values)] bool."""
        return np.flatnonzero(wrong[self.codes])


def one_class(num_rows: int) -> Labels:
    """Labels for rows without labels: all of one class."""
    return Labels("no labels", np.zeros(num_rows, np.int32), [_ONE_CLASS])


def check_labels(column: Column) -> Labels:
    """The labels in a column; raises DataError if they have an unsupported type, or some are missing."""
    where, values = column.where, column.values
    kind = values.type
    empty = pc.equal(pc.utf8_trim_whitespace(values), "").fill_null(True) if is_text(kind) else values.is_null()
    rows, found = np.flatnonzero(empty.to_numpy(zero_copy_only=False)), "no label"
    if pa.types.is_floating(kind) and not len(rows):
        numbers = values.to_numpy()
        rows, found = np.flatnonzero(np.isnan(numbers)), "NaN"
        if not len(rows):
            broken = np.flatnonzero((numbers != np.floor(numbers)) | np.isinf(numbers))[0]
            raise DataError(f"{where}: row {broken} has the label {numbers[broken]}; {_WANTED}.")
    if len(rows):
        raise DataError(
            f"{where}: row {rows[0]} has {found} ({len(rows)} of {len(values)} such rows); {_WANTED}. Leave out what has none."
        )
    if not (is_text(kind) or pa.types.is_boolean(kind) or pa.types.is_integer(kind)):
        raise DataError(f"{where}: the labels are {inputs.shown(str(kind))}; {_WANTED}.")
    encoded = values.dictionary_encode()
    different = encoded.dictionary.to_pylist()
    if is_text(kind):
        inputs.check_names(where, different, "label")
    return Labels(where, encoded.indices.to_numpy(), different, column.class_names)


def _numbers(labels: Labels) -> list[float] | None:
    """The values as numbers, bools as 0 and 1; None unless all are numbers or numerals."""
    values = labels.values
    if not isinstance(values[0], str):
        return [*map(int, values)]
    if all(map(texts.WHOLE.fullmatch, values)):
        return [*map(int, values)]
    if all(texts.WHOLE.fullmatch(value) or _DECIMAL.fullmatch(value) for value in values):
        # Floats count as integers only in the range where they are exact; beyond, several texts would give the same number.
        return [
            int(value) if texts.WHOLE.fullmatch(value)
            else int(number) if not (number := float(value)) % 1 and abs(number) < 2**53
            else number
            for value in values
        ]  # fmt: skip
    return None


def readings(labels: Labels, names: Sequence[str], are: str = "") -> dict[str, np.ndarray]:
    """The possible interpretations of labels as classes with these names.

    Args:
      labels: texts, numbers or bools; their order in the file has no influence.
      names: names of the classes.
      are: one of READINGS for this interpretation only, or ''.

    Returns:
      for each interpretation the class of each of `labels.values`, int32, -1 for none. "names": the index of its text, or of a
      numeral with its value, among the names. "indices", if all labels are numbers or numerals: the number itself.

    Raises:
      DataError: "indices" is requested, and a label is not a number.
    """
    index = {name: number for number, name in reversed([*enumerate(names)])}
    found = {"names": [index.get(str(value), -1) for value in labels.values]}
    numbers = _numbers(labels)
    if numbers is not None:
        # Other tools treat the folder "007" as the number 7.
        numerals = {int(name): number for name, number in index.items() if _NUMERAL.fullmatch(name)}
        pairs = zip(found["names"], numbers, strict=True)
        found["names"] = [numerals.get(number, -1) if named < 0 else named for named, number in pairs]
        found["indices"] = [number if number in range(len(names)) else -1 for number in numbers]
    elif are == "indices":
        wrong = np.array([not texts.WHOLE.fullmatch(value) for value in labels.values])
        raise DataError(f"{_row_has(labels, wrong)}; --labels-are=indices wants whole numbers. Leave the flag out.")
    return {name: np.array(found[name], np.int32) for name in found if are in ("", name)}


def _row_has(labels: Labels, wrong: np.ndarray) -> str:
    """'FILE: row r has the label ...' for messages, for the first row whose value is marked in `wrong`."""
    rows = labels.rows(wrong)
    value = labels.values[int(labels.codes[rows[0]])]
    return f"{labels.where}: row {rows[0]} has the label {value!r} ({len(rows)} of {len(labels.codes)} such rows)"


def encode(labels: Labels, names: Sequence[str] | None, are: str = "") -> tuple[np.ndarray, list[str]]:
    """Converts labels to numbers, and returns the names of the classes, too.

    With `names`, either all labels are names or all are indices. Without, the sorted different values are the class names, and
    labels their indices; so integers 0…K-1, if each occurs, do not change.

    Args:
      labels: labels in the form that the file has.
      names: names of the classes, or None.
      are: one of READINGS; or '' to infer it.

    Returns:
      labels [N] int32, class names.

    Raises:
      DataError: a label is not a class, or could be the name of one class and the index of another.
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
    """`encode` without names."""
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
    """The names of the labels 0, 1, … in a text file, one per line; raises as `columns.read`."""
    path = inputs.existing(f"--class-names={inputs.shown(path)}", path)
    names = texts.lines(path)
    empty = next((number for number, name in enumerate(names, 1) if not name.strip()), None)
    if not names or empty:
        raise DataError(f"{path}: {f'line {empty} is empty' if empty else 'no names'}; wanted one class name a line.")
    if len(names) > 1 and texts.names_a_column(names[0]):
        logging.warning(
            "import: the first class name in %s is %r. If it is a header, delete that line: all labels have wrong names.",
            path, names[0],
        )  # fmt: skip
    return check_class_names(path, names)


def check_class_names(where: str, names: Sequence[str]) -> list[str]:
    """Returns the names; raises DataError if a name occurs twice or cannot be shown."""
    twice, times = collections.Counter(names).most_common(1)[0]
    if times > 1:
        raise DataError(
            f"{where}: the class name '{inputs.shown(twice)}' is there more than once; wanted different names."
        )
    inputs.check_names(where, names)
    return list(names)


def check_ids(column: Column) -> pa.Array:
    """The ids in a column, as [N] large_string.

    Raises:
      DataError: an id is missing, empty, repeated, contains a line break, or is neither a text nor an integer.
    """
    where, values, _ = column
    num_rows = len(values)
    if not (is_text(values.type) or pa.types.is_integer(values.type)):
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
