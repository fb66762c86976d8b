"""Labels and ids in files of other tools: .npy, .csv, .txt or a column of Parquet. Never unpickles."""

import collections
import csv
import io
import os
import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from redundancy import storage
from redundancy.data import inputs, npy
from redundancy.runtime.errors import ConfigError, DataError

_WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"-?[0-9]+\.[0-9]*(e[-+]?[0-9]+)?|nan", re.IGNORECASE)
# A number in a text beyond these is no label anyway, and would not fit in an int64.
_MOST = 2**62
_DIGITS = 19
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
    path = _existing("--labels", path)
    if column is not None and not path.lower().endswith(".csv"):
        raise ConfigError(f"--columns names a column of labels, {column!r}, but {path} is no .csv file.")
    kind = path.lower()
    if kind.endswith(".npy"):
        return check_labels(path, _npy(path), num_rows)
    if kind.endswith(".csv"):
        return check_labels(path, _typed(csv_column(path, column, "label", num_rows)), num_rows)
    if kind.endswith(".txt"):
        return check_labels(path, _typed(_lines(path)), num_rows)
    raise ConfigError(f"--labels={path}: wanted a .npy, .csv or .txt file.")


def check_labels(where: str, values: pa.Array, num_rows: int) -> pa.Array:
    """The labels as int64 or string; arguments, result and errors as of `read_labels`."""
    values = _plain(where, values)
    kind = values.type
    _check_length(where, len(values), num_rows, "labels")
    if values.null_count:
        raise _missing(where, np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False)), num_rows)
    if pa.types.is_floating(kind):
        numbers = values.to_numpy(zero_copy_only=False)
        if np.isnan(numbers).any():
            raise _missing(where, np.flatnonzero(np.isnan(numbers)), num_rows, "NaN")
        broken = np.flatnonzero(~((numbers == np.floor(numbers)) & (np.abs(numbers) < 2**31)))
        if len(broken):
            raise DataError(f"{where}: row {broken[0]} has the label {numbers[broken[0]]}; {_WANTED}.")
        return check_labels(where, pa.array(numbers.astype(np.int64)), num_rows)
    if pa.types.is_integer(kind):
        negative = np.flatnonzero(pc.less(values, pa.scalar(0, kind)).to_numpy(zero_copy_only=False))
        if len(negative):
            raise DataError(
                f"{where}: row {negative[0]} has the label {values[int(negative[0])]} ({len(negative)} of {num_rows} "
                f"labels are below 0); {_WANTED}. Leave out what has no label."
            )
        if pc.max(values).as_py() >= 2**63:
            raise DataError(f"{where}: a label is {pc.max(values).as_py()}; {_WANTED}.")
        return values.cast(pa.int64())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        empty = np.flatnonzero(pc.equal(pc.utf8_trim_whitespace(values), "").to_numpy(zero_copy_only=False))
        if len(empty):
            raise _missing(where, empty, num_rows)
        inputs.check_names(where, pc.unique(values).to_pylist(), "label")
        return values.cast(pa.large_string())
    raise DataError(f"{where}: the labels are {inputs.shown(str(kind))}; {_WANTED}.")


def _plain(where: str, values: pa.Array) -> pa.Array:
    """The values without dictionaries and views; raises DataError where they are damaged, as texts that are no UTF-8."""
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
    return values


def encode(where: str, values: pa.Array, names: Sequence[str] | None) -> tuple[np.ndarray, list[str]]:
    """Labels as numbers, and the names of the classes.

    Whole numbers 0…K-1, each present, stay. Other numbers and names are numbered by their sorted different values,
    which are the class names. Where `names` are given, numbers are indices into them, and names must be among them.

    Args:
      where: the labels' file, for messages.
      values: as `check_labels` returned them.
      names: of the classes.

    Returns:
      labels [n] int32, class names.

    Raises:
      DataError: a label is not among `names`.
    """
    if names is not None:
        labels, wrong = match(values, names)
        if len(wrong):
            raise DataError(
                f"{where}: row {wrong[0]} has the label {values[int(wrong[0])].as_py()!r} ({len(wrong)} such rows), "
                f"which is none of the {len(names)} class names; wanted a name, or a number from 0 to {len(names) - 1}."
            )
        return labels, list(names)
    if pa.types.is_integer(values.type):
        found, labels = np.unique(values.to_numpy(), return_inverse=True)
        return labels.astype(np.int32), [str(value) for value in found.tolist()]
    found = sorted(pc.unique(values).to_pylist())
    return match(values, found)[0], found


def match(values: pa.Array, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The index of each value in `names`, [n] int32, -1 for none (a number is an index itself); and rows that have none."""
    if pa.types.is_integer(values.type):
        numbers = values.to_numpy()
        labels = np.where(numbers < len(names), numbers, -1).astype(np.int32)
    else:
        index = pc.index_in(values, pa.array(list(names), pa.large_string()))
        labels = index.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
    return labels, np.flatnonzero(labels < 0)


def read_class_names(path: str) -> list[str]:
    """The names in a text file, one a line, of the labels 0, 1, …; raises as `read_labels`."""
    path = _existing("--class-names", path)
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
    path = _existing("--ids", path)
    if path.lower().endswith(".csv"):
        return check_ids(path, pa.array(csv_column(path, column, "id", num_rows), pa.large_string()), num_rows)
    if column is not None:
        raise ConfigError(f"--columns names a column of ids, {column!r}, but --ids={path} is no .csv file.")
    if path.lower().endswith((".npy", ".npz", ".parquet")):
        raise ConfigError(f"--ids={path}: wanted a text file with one id a line, or a .csv file.")
    return check_ids(path, pa.array(_lines(path), pa.large_string()), num_rows)


def check_ids(where: str, values: pa.Array, num_rows: int) -> pa.Array:
    """The ids as [num_rows] large_string.

    Raises:
      DataError: they are not `num_rows`, or one is missing, empty, doubled, has a line break, or is no text or number.
    """
    values = _plain(where, values)
    kind = values.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
        raise DataError(f"{where}: the ids are {inputs.shown(str(kind))}; wanted texts or whole numbers.")
    values = values.cast(pa.large_string())
    _check_length(where, len(values), num_rows, "ids")
    empty = pc.equal(pc.utf8_trim_whitespace(values.fill_null("")), "").to_numpy(zero_copy_only=False)
    if empty.any():
        raise DataError(
            f"{where}: the id of row {int(np.argmax(empty))} is empty ({int(empty.sum())} of {num_rows} are); wanted a "
            "different id for each embedding."
        )
    broken = pc.match_substring_regex(values, "[\\r\\n]").to_numpy(zero_copy_only=False)
    if broken.any():
        raise DataError(
            f"{where}: the id of row {int(np.argmax(broken))} has a line break in it; wanted ids of one line."
        )
    counts = pc.value_counts(values)
    twice = np.flatnonzero(counts.field("counts").to_numpy() > 1)
    if len(twice):
        value = counts.field("values")[int(twice[0])]
        rows = np.flatnonzero(pc.equal(values, value).to_numpy(zero_copy_only=False))
        raise DataError(
            f"{where}: the rows {rows[0]} and {rows[1]} have the same id '{inputs.shown(value.as_py())}' ({len(twice)} ids are there "
            "more than once); wanted a different id for each embedding."
        )
    return values


def csv_column(path: str, column: str | None, what: str, num_rows: int) -> list[str]:
    """A column of a .csv file: the one named in its header, or the only one. Blank lines at the end do not count.

    Args:
      path: the file.
      column: its name in the header; None for a file of one column and no header.
      what: key of --columns that names it, for messages.
      num_rows: rows wanted, to tell a header by.

    Raises:
      DataError: the file is no .csv, has no such column, a header that was not told of, or a row without a value.
    """
    reader = csv.reader(io.StringIO(_text(path), newline=""))
    rows, ends = [], []  # a row's last line: a quoted value may have several
    try:
        for row in reader:
            rows.append(row)
            ends.append(reader.line_num)
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}, cannot be read as .csv: {error}. Check the quotes there."
        ) from error
    num_all = len(rows)
    while rows and not rows[-1]:
        rows.pop()
    if not rows:
        raise DataError(f"{path} is empty; {_WANTED}.")
    blank = next((end for row, end in zip(rows, ends, strict=False) if not row), None)
    if blank is not None:
        # Passed over, it would move all that follow it to other embeddings.
        raise DataError(
            f"{path}: line {blank} is blank, so a row has no {what}; wanted a value in each. Write it there, or leave "
            "out the line, where it stands for no embedding."
        )
    header = rows[0]
    if column is None:
        if len(header) == 1:
            if len(rows) == num_rows + 1:
                raise DataError(
                    f"{path} has {len(rows)} rows; wanted {num_rows}, as many as there are embeddings. If the first, "
                    f"'{inputs.shown(header[0])}', is a header, say so: --columns {what}={inputs.shown(header[0])}."
                )
            _check_no_header(path, [row[0] for row in rows if row], what, blank_end=num_all > len(rows))
            at = 0
        else:
            raise DataError(
                f"{path} has {len(header)} columns, {inputs.shown(str(header))}; wanted one, or a header and --columns "
                f"{what}=NAME."
            )
    elif header.count(column) > 1:
        raise DataError(
            f"{path} has {header.count(column)} columns {column!r}; wanted one of that name. Rename the others."
        )
    elif column in header:
        at, rows, ends = header.index(column), rows[1:], ends[1:]
    else:
        raise DataError(
            f"{path} has no column {column!r}; its header is {inputs.shown(str(header))}. Name the right one in --columns."
        )
    short = next((number for number, row in enumerate(rows) if len(row) != len(header)), None)
    if short is not None:
        raise DataError(
            f"{path}: line {ends[short]} has {len(rows[short])} values; wanted {len(header)}, as in the first line."
        )
    return [row[at] for row in rows]


def _check_no_header(path: str, values: Sequence[str], what: str, blank_end: bool) -> None:
    """Raises DataError where the first of as many values as are wanted seems to be a header, so that one is missing."""
    first, others = values[0], values[1:]
    if what != "label" or len(others) < 2 or first in others or _WHOLE.fullmatch(first):
        return
    first = inputs.shown(first)
    if blank_end or all(map(_WHOLE.fullmatch, others)):
        raise DataError(
            f"{path}: the first line, {first!r}, seems to be a header: no other line has it, and "
            f"{'the last line is blank' if blank_end else 'all others are whole numbers'}. Then there is one label too few. "
            f"Write the missing one and give --columns {what}={first}; or, if {first!r} is a label, "
            f"{'leave out the blank line' if blank_end else 'write the others as names too'}."
        )


def _existing(flag: str, path: str) -> str:
    path = os.path.expanduser(path.removeprefix("file://"))
    local = storage.is_local(path)
    if not (os.path.lexists(path) if local else storage.exists(path)):
        raise ConfigError(f"{flag}={inputs.shown(path)}: there is no such file. Check the path.")
    if local and (problem := inputs.unfit(path)):
        raise ConfigError(f"{flag}={inputs.shown(path)} {problem}; wanted a file. Check the path.")
    return path


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
    kind = array.dtype
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or kind.kind not in "iufUS" or (kind.kind == "f" and kind.itemsize > 8):
        raise DataError(f"{path} is {inputs.shown(str(kind))} {list(array.shape)}; {_WANTED}, as an array [N].")
    if kind.kind in "US":
        try:
            texts = np.char.decode(array, "utf-8") if kind.kind == "S" else array
            return pa.array(texts.tolist(), pa.large_string())
        except UnicodeDecodeError as error:
            # Replaced characters would make one class of several.
            raise DataError(
                f"{path}: the label {inputs.shown(str(error.object))} is no UTF-8 text ({error.reason}); {_WANTED}. Decode "
                "the labels and save them as texts, numpy.char.decode(labels, ENCODING)."
            ) from error
        except Exception as error:  # halves of surrogate pairs; several kinds for numbers that are no characters
            raise DataError(f"{path} holds a label that is no text ({inputs.shown(str(error))}); {_WANTED}.") from error
    return pa.array(array.astype(kind.newbyteorder("=")))


def _typed(texts: list[str]) -> pa.Array:
    """Texts as whole numbers where all are, as decimals where all are numbers, else as they are."""
    if texts and all(map(_WHOLE.fullmatch, texts)):
        return pa.array(list(map(_whole, texts)), pa.int64())
    if texts and all(_WHOLE.fullmatch(text) or _DECIMAL.fullmatch(text) for text in texts):
        return pa.array([float(text) for text in texts], pa.float64())
    return pa.array(texts, pa.large_string())


def _whole(text: str) -> int:
    if len(text) > _DIGITS:  # Python refuses thousands of them
        return -_MOST if text[0] == "-" else _MOST
    return max(-_MOST, min(int(text), _MOST))


def _missing(where: str, rows: np.ndarray, num_rows: int, found: str = "no label") -> DataError:
    return DataError(
        f"{where}: row {rows[0]} has {found} ({len(rows)} of {num_rows} such rows); {_WANTED}. Leave out what has none."
    )


def _check_length(where: str, found: int, wanted: int, what: str) -> None:
    if found != wanted:
        raise DataError(f"{where} has {found} {what}; wanted {wanted}, as many as there are embeddings.")
