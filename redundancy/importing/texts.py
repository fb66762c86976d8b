"""Reads text files from outside: lines, and columns of .csv. Errors are DataErrors that name the line."""

import codecs
import collections
import csv
import io
import re
from collections.abc import Sequence

from absl import logging

from redundancy.data import inputs
from redundancy.runtime.errors import DataError

WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"\s*([-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?|nan)\s*", re.IGNORECASE)
_DIGIT = re.compile("[0-9]")
# Usual names of columns of labels and ids consist of one or several of these words.
_COLUMN = re.compile(
    r"((image|img|photo|sample|example|item|data|file|fname|class|cls|label|category|categories|target|name|path|id|idx|index|"
    r"key|kind|uid|uuid|guid|url|uri|pos|position|row|md5|sha1|sha256|hash|y|gt|ground|truth|fine|coarse|species|breed|type|"
    r"group|tag)(e?s)?[ _.-]*)+",
    re.IGNORECASE,
)
# Forms that all values have, but a header does not.
_ALIKE = (
    ("all others are whole numbers", WHOLE.fullmatch),
    ("all others are numbers", _NUMBER.fullmatch),
    ("all others are hexadecimal", re.compile("[0-9a-f-]{8,}", re.IGNORECASE).fullmatch),
    ("all others are names of files", re.compile(r"[/\\]|\.\w{1,5}$").search),
)
# UTF-32 comes first, since its mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def text(path: str) -> str:
    """Reads a text file in UTF-8 or, with a byte order mark, UTF-16 or UTF-32; raises DataError for other encodings."""
    data = inputs.read_bytes(path)
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8-sig")
    try:
        found = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is no {encoding.upper().removesuffix('-SIG')} text ({error.reason} at byte {error.start}); save it as UTF-8."
        ) from error
    if "\0" in found:
        line = found.count("\n", 0, found.index("\0")) + 1
        raise DataError(f"{path}: line {line} holds a NUL character: it is no text, or UTF-16; save it as UTF-8.")
    return found


def lines(path: str) -> list[str]:
    """The lines of a text file, without line breaks; a break at the end does not start another line."""
    found = text(path).replace("\r\n", "\n").split("\n")
    return found[:-1] if not found[-1] else found


def is_csv(path: str) -> bool:
    """Whether a text file is a table, according to its name."""
    return path.lower().endswith((".csv", ".tsv"))


def values(path: str, column: str | None, what: str, num_rows: int) -> list[str]:
    """A text for each embedding: the lines of a file, or the named or only column of a .csv or .tsv.

    Args:
      path: the file.
      column: name of the column in the header; None for a file without a header.
      what: "label" or "id", the key for the column in --columns.
      num_rows: expected number of rows, to detect a header.

    Raises:
      DataError: the file is not such a text, has no such column, a row without a value, or a header in place of a value.
    """
    if not is_csv(path):
        found, blank_end = lines(path), False
        remedy = "delete that line"
    else:
        found, blank_end = _csv_column(path, column, what)
        remedy = f"say so: --columns {what}={inputs.shown(found[0] if found else what)}"
    if column is None and (problem := _header_in(found, what, num_rows, blank_end, remedy)):
        raise DataError(f"{path}{problem}")
    return found


def rows(path: str) -> tuple[list[tuple[list[str], int]], bool]:
    """The rows of a .csv or .tsv, without blank ones at the end.

    Returns:
      each row with the number of its last line (quoted values may have several), and whether there were blank rows at the end.

    Raises:
      DataError: the file is not such a text.
    """
    delimiter = "\t" if path.lower().endswith(".tsv") else ","
    reader = csv.reader(io.StringIO(text(path), newline=""), delimiter=delimiter)
    try:
        found = [(row, reader.line_num) for row in reader]
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}, cannot be read as .csv: {error}. Check the quotes there."
        ) from error
    num_all = len(found)
    while found and not found[-1][0]:
        found.pop()
    return found, num_all > len(found)


def _csv_column(path: str, column: str | None, what: str) -> tuple[list[str], bool]:
    """As `values`, including a header if `column` is None; also returns whether there are blank lines at the end."""
    there, blank_end = rows(path)
    if not there:
        raise DataError(f"{path} is empty; wanted a value for each embedding.")
    header, width = there[0][0], len(there[0][0])
    if blank := next((line for row, line in there if not row), None):
        # Not skipped, since then all later values would belong to the wrong embeddings.
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
    elif wrong := next(((row, line) for row, line in there if len(row) != width), None):
        problem = f": line {wrong[1]} has {len(wrong[0])} values; wanted {width}, as in the first line."
    else:
        at = 0 if column is None else header.index(column)
        return [row[at] for row, _ in (there if column is None else there[1:])], blank_end
    raise DataError(f"{path}{problem}")


def names_a_column(name: str) -> bool:
    """Whether a text is a usual name of a column of labels or ids, such as "label", "image_id" or "filename"."""
    return bool(_COLUMN.fullmatch(name.strip().strip("#\"'").strip()))


def _header_in(found: Sequence[str], what: str, num_rows: int, blank_end: bool, remedy: str) -> str:
    """An error text if the first value is a header, so that all others would belong to the wrong embeddings; otherwise ''.

    If that is uncertain, a warning is logged.
    """
    if len(found) not in (num_rows, num_rows + 1) or not found:
        return ""
    first, others = inputs.shown(found[0]), found[1:]
    if len(found) > num_rows:
        return (
            f" has {len(found)} rows; wanted {num_rows}, as many as there are embeddings. If the first, {first!r}, is a "
            f"header, {remedy}."
        )
    if found[0] in others:
        return ""
    is_number, why = _NUMBER.fullmatch(found[0]), ""
    if len(others) > 1 and not is_number:
        why = next((why for why, alike in _ALIKE if not alike(found[0]) and all(map(alike, others))), "")
    if not why and blank_end and what == "label" and len(others) > 1 and not is_number:
        why = "the last line is blank"
    elif not why and names_a_column(found[0]):
        why = "columns are called so"
    if why:
        return (
            f": the first line, {first!r}, seems to be a header: no other line has it, and {why}. Then one {what} is missing: "
            f"write it and {remedy}; or, if {first!r} is the first {what}, save the {what}s as .npy, which has no header."
        )
    if len(others) > 1 and what == "label" and min(collections.Counter(others).values()) > 1:
        why = "every other label is there more than once"
    elif len(others) > 1 and what == "id" and not _DIGIT.search(found[0]) and all(map(_DIGIT.search, others)):
        why = "every other id has a digit"
    if why:
        logging.warning(
            "import: the first %s, %r, looks like a header: no other line has it, and %s. If it is one, delete that line: otherwise "
            "every %s is one row off.",
            what, first, why, what,
        )  # fmt: skip
    return ""
