"""Reads labels, class names and ids of other tools: .npy, .csv, .txt or a column of Parquet. Never unpickles."""

import collections
import csv
import io
import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from redundancy.data import inputs, npy
from redundancy.runtime.errors import ConfigError, DataError

_WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"-?[0-9]+\.[0-9]*(e[-+]?[0-9]+)?|nan", re.IGNORECASE)
# A number in a text beyond these is no label anyway, and would not fit in an int64.
_MOST = 2**62
_WANTED = "wanted whole numbers from 0 or names, one for each embedding"


def read_labels(path: str, column: str | None, num_rows: int) -> pa.Array:
    """The label of each row, as the file has it.

    Args:
      path: .npy, .csv or .txt.
      column: name of the column in a .csv with a header.
      num_rows: how many are wanted.

    Returns:
      [num_rows] int64, at least 0, or string, not empty.

    Raises:
      ConfigError: there is no such file, or no such kind of file.
      DataError: labels are missing, negative, of another type, or not `num_rows`.
    """
    path = inputs.existing(f"--labels={inputs.shown(path)}", path)
    kind = path.lower()[-4:]
    if column is not None and kind != ".csv":
        raise ConfigError(f"--columns names a column of labels, {column!r}, but {path} is no .csv file.")
    if kind == ".npy":
        values = _npy(path)
    elif kind == ".csv":
        values = _typed(csv_column(path, column, "label", num_rows))
    elif kind == ".txt":
        values = _typed(_lines(path))
    else:
        raise ConfigError(f"--labels={path}: wanted a .npy, .csv or .txt file.")
    return check_labels(path, values, num_rows)


def check_labels(where: str, values: pa.Array, num_rows: int) -> pa.Array:
    """The labels as int64 or string; arguments, result and errors as of `read_labels`."""
    values = _plain(where, values, num_rows, "labels")
    kind = values.type
    is_text, is_float = pa.types.is_string(kind) or pa.types.is_large_string(kind), pa.types.is_floating(kind)
    empty = pc.equal(pc.utf8_trim_whitespace(values), "").fill_null(True) if is_text else values.is_null()
    rows, found = np.flatnonzero(empty.to_numpy(zero_copy_only=False)), "no label"
    if is_float and not len(rows):
        rows, found = np.flatnonzero(np.isnan(values.to_numpy())), "NaN"
    if len(rows):
        raise DataError(
            f"{where}: row {rows[0]} has {found} ({len(rows)} of {num_rows} such rows); {_WANTED}. Leave out what has none."
        )
    if is_float:
        numbers = values.to_numpy()
        broken = np.flatnonzero((numbers != np.floor(numbers)) | (np.abs(numbers) >= 2**31))
        if len(broken):
            raise DataError(f"{where}: row {broken[0]} has the label {numbers[broken[0]]}; {_WANTED}.")
        values, kind = pa.array(numbers.astype(np.int64)), pa.int64()
    if pa.types.is_integer(kind):
        numbers = values.to_numpy()
        negative, most = np.flatnonzero(numbers < 0), int(numbers.max())
        if len(negative):
            raise DataError(
                f"{where}: row {negative[0]} has the label {numbers[negative[0]]} ({len(negative)} of {num_rows} labels are "
                f"below 0); {_WANTED}. Leave out what has no label."
            )
        if most >= 2**63:
            raise DataError(f"{where}: a label is {most}; {_WANTED}.")
        return values.cast(pa.int64())
    if is_text:
        inputs.check_names(where, pc.unique(values).to_pylist(), "label")
        return values.cast(pa.large_string())
    raise DataError(f"{where}: the labels are {inputs.shown(str(kind))}; {_WANTED}.")


def _plain(where: str, values: pa.Array, num_rows: int, what: str) -> pa.Array:
    """The values without dictionaries and views; raises DataError if they are not `num_rows`, or damaged (no UTF-8)."""
    try:
        values.validate(full=True)
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


def encode(where: str, values: pa.Array, names: Sequence[str] | None) -> tuple[np.ndarray, list[str]]:
    """Labels as numbers, and the names of the classes.

    With `names`, numbers are indices into them, and texts must be among them. Without, labels are numbered by their
    sorted different values, which are the class names; so whole numbers 0…K-1, each present, stay.

    Args:
      where: the labels' file, for messages.
      values: as `check_labels` returned them.
      names: of the classes.

    Returns:
      labels [n] int32, class names.

    Raises:
      DataError: a label is not among `names`.
    """
    if names is None and pa.types.is_integer(values.type):
        found, labels = np.unique(values.to_numpy(), return_inverse=True)
        return labels.astype(np.int32), [str(value) for value in found.tolist()]
    names = sorted(pc.unique(values).to_pylist()) if names is None else list(names)
    labels = match(values, names)
    wrong = np.flatnonzero(labels < 0)
    if len(wrong):
        raise DataError(
            f"{where}: row {wrong[0]} has the label {values[int(wrong[0])].as_py()!r} ({len(wrong)} such rows), which is "
            f"none of the {len(names)} class names; wanted a name, or a number from 0 to {len(names) - 1}."
        )
    return labels, names


def match(values: pa.Array, names: Sequence[str]) -> np.ndarray:
    """The index of each value in `names`, [n] int32, -1 for none; a number is an index itself."""
    if pa.types.is_integer(values.type):
        numbers = values.to_numpy()
        return np.where(numbers < len(names), numbers, -1).astype(np.int32)
    index = pc.index_in(values, pa.array(list(names), pa.large_string()))
    return index.fill_null(-1).to_numpy().astype(np.int32)


def read_class_names(path: str) -> list[str]:
    """The names in a text file, one a line, of the labels 0, 1, …; raises as `read_labels`."""
    path = inputs.existing(f"--class-names={inputs.shown(path)}", path)
    names = _lines(path)
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
        values = csv_column(path, column, "id", num_rows)
    elif column is not None:
        raise ConfigError(f"--columns names a column of ids, {column!r}, but --ids={path} is no .csv file.")
    elif path.lower().endswith((".npy", ".npz", ".parquet")):
        raise ConfigError(f"--ids={path}: wanted a text file with one id a line, or a .csv file.")
    else:
        values = _lines(path)
    return check_ids(path, pa.array(values, pa.large_string()), num_rows)


def check_ids(where: str, values: pa.Array, num_rows: int) -> pa.Array:
    """The ids as [num_rows] large_string.

    Raises:
      DataError: they are not `num_rows`, or one is missing, empty, doubled, has a line break, or is no text or number.
    """
    values = _plain(where, values, num_rows, "ids")
    kind = values.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
        raise DataError(f"{where}: the ids are {inputs.shown(str(kind))}; wanted texts or whole numbers.")
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


def csv_column(path: str, column: str | None, what: str, num_rows: int) -> list[str]:
    """A column of a .csv file: the one named in its header, or the only one. Blank lines at the end do not count.

    Args:
      path: the file.
      column: its name in the header; None for a file of one column and no header.
      what: key of --columns that names it, for messages.
      num_rows: rows wanted, to detect a header.

    Raises:
      DataError: the file is no .csv, has no such column, a header that --columns does not name, or a row without a value.
    """
    reader = csv.reader(io.StringIO(_text(path), newline=""))
    try:
        rows = [(row, reader.line_num) for row in reader]  # with the row's last line: a quoted value may have several
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}, cannot be read as .csv: {error}. Check the quotes there."
        ) from error
    num_all = len(rows)
    while rows and not rows[-1][0]:
        rows.pop()
    if not rows:
        raise DataError(f"{path} is empty; {_WANTED}.")
    header, width = rows[0][0], len(rows[0][0])
    blank = next((line for row, line in rows if not row), None)
    if blank:  # skipped, it would move all that follow it to other embeddings
        problem = (
            f": line {blank} is blank, so a row has no {what}; wanted a value in each. Write it there, or leave out the line "
            "if it stands for no embedding."
        )
    elif column is not None and header.count(column) != 1:
        found = f"{header.count(column)} columns" if column in header else "no column"
        problem = (
            f" has {found} {column!r}; its header is {inputs.shown(str(header))}. Name the right one in --columns."
        )
    elif column is None and width > 1:
        found = inputs.shown(str(header))
        problem = f" has {width} columns, {found}; wanted one, or a header and --columns {what}=NAME."
    elif column is None and len(rows) == num_rows + 1:
        first = inputs.shown(header[0])
        problem = (
            f" has {len(rows)} rows; wanted {num_rows}, as many as there are embeddings. If the first, '{first}', is a "
            f"header, say so: --columns {what}={first}."
        )
    elif column is None and what == "label" and (why := _header_in(rows, blank_end=num_all > len(rows))):
        problem = why
    elif wrong := next(((row, line) for row, line in rows if len(row) != width), None):
        problem = f": line {wrong[1]} has {len(wrong[0])} values; wanted {width}, as in the first line."
    else:
        at = 0 if column is None else header.index(column)
        return [row[at] for row, _ in (rows if column is None else rows[1:])]
    raise DataError(f"{path}{problem}")


def _header_in(rows: Sequence[tuple[list[str], int]], blank_end: bool) -> str:
    """What is wrong if the count matches but the first value looks like a header, so that one label is missing; or ''."""
    first, *others = (row[0] for row, _ in rows)
    if len(others) < 2 or first in others or _WHOLE.fullmatch(first):
        return ""
    if not blank_end and not all(map(_WHOLE.fullmatch, others)):
        return ""
    first = inputs.shown(first)
    why = "the last line is blank" if blank_end else "all others are whole numbers"
    instead = "leave out the blank line" if blank_end else "write the others as names too"
    return (
        f": the first line, {first!r}, seems to be a header: no other line has it, and {why}. Then one label is missing: write "
        f"it and give --columns label={first}; or, if {first!r} is a label, {instead}."
    )


def _text(path: str) -> str:
    try:
        text = inputs.read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8.") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{path}: line {line} holds a NUL character: it is no text, or UTF-16; save it as UTF-8.")
    return text


def _lines(path: str) -> list[str]:
    """Lines of a text file without their ends; a break at the very end begins no line."""
    lines = _text(path).replace("\r\n", "\n").split("\n")
    return lines[:-1] if not lines[-1] else lines


def _npy(path: str) -> pa.Array:
    data = inputs.read_bytes(path)
    try:
        array = npy.read_array(io.BytesIO(data), len(data))
    except npy.NotAnArrayError as error:
        raise DataError(f"{path} {error}; {_WANTED}, as numpy.save writes arrays of numbers or texts.") from error
    return from_array(path, array)


def from_array(where: str, array: np.ndarray) -> pa.Array:
    """Numbers or texts [N] or [N, 1] for `check_labels`; raises DataError if they are of another type or shape."""
    kind = array.dtype
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or kind.kind not in "iufUS" or (kind.kind == "f" and kind.itemsize > 8):
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


def _typed(texts: list[str]) -> pa.Array:
    """Texts as whole numbers if all are, as decimals if all are numbers, else as they are."""
    if texts and all(map(_WHOLE.fullmatch, texts)):
        # Cut, since Python refuses to read thousands of digits.
        return pa.array([max(-_MOST, min(int(text[:21]), _MOST)) for text in texts], pa.int64())
    if texts and all(_WHOLE.fullmatch(text) or _DECIMAL.fullmatch(text) for text in texts):
        return pa.array([float(text) for text in texts], pa.float64())
    return pa.array(texts, pa.large_string())
