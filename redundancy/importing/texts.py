"""Reads text files that others wrote: lines, and a column of .csv. Whatever is wrong is a DataError that names the line."""

import codecs
import csv
import io
import re
from collections.abc import Sequence

from redundancy.data import inputs
from redundancy.runtime.errors import DataError

WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")
# That of UTF-32 begins as that of UTF-16 does.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def text(path: str) -> str:
    """A text file in UTF-8, or in what the mark at its beginning says: UTF-16 or UTF-32; raises DataError for others."""
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
    """Lines of a text file without their ends; a break at the very end begins no line."""
    found = text(path).replace("\r\n", "\n").split("\n")
    return found[:-1] if not found[-1] else found


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
    reader = csv.reader(io.StringIO(text(path), newline=""))
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
        raise DataError(f"{path} is empty; wanted a value for each embedding.")
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
    if len(others) < 2 or first in others or WHOLE.fullmatch(first):
        return ""
    if not blank_end and not all(map(WHOLE.fullmatch, others)):
        return ""
    first = inputs.shown(first)
    why = "the last line is blank" if blank_end else "all others are whole numbers"
    instead = "leave out the blank line" if blank_end else "write the others as names too"
    return (
        f": the first line, {first!r}, seems to be a header: no other line has it, and {why}. Then one label is missing: write "
        f"it and give --columns label={first}; or, if {first!r} is a label, {instead}."
    )
