"""Parquet files with checksums of every page and of the footer, which are verified on reading."""

import base64
import contextlib
import hashlib
import io
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from redundancy.runtime.errors import DataError, UserError
from redundancy.storage import files
from redundancy.storage.files import open_read

# Key of the footer's checksum in a Parquet file's metadata, and the 64 characters that stand there while it is computed.
_FOOTER, _NO_FOOTER = (
    "redundancy.footer_sha256",
    "the SHA-256 of the footer with this text instead of it".ljust(64, "."),
)


# Below this mean size of row groups, in bytes, pages are not compressed: zstd would take most of the writing time and save
# nothing (docs/clustering.md, many small classes).
_SMALL = 8192


def _row_bytes(schema: pa.Schema) -> int:
    """Bytes of a row, if each text has 16."""
    total = 0
    for field in schema:
        kind, times = field.type, 1
        if pa.types.is_fixed_size_list(kind):
            kind, times = kind.value_type, kind.list_size
        total += times * (kind.bit_width // 8 if pa.types.is_primitive(kind) else 16)
    return total


def parquet_bytes(tables: Sequence[pa.Table], metadata: dict[str, str] | None = None) -> bytes | memoryview:
    """The bytes of a Parquet file with one row group for each table, and checksums of each page and of the footer.

    Args:
      tables: at least one, all with the same schema.
      metadata: key-value pairs for the file's schema.
    """
    schema = tables[0].schema.with_metadata({**(metadata or {}), _FOOTER: _NO_FOOTER})
    sink = pa.BufferOutputStream()  # into a Python object, every page would be written by a Python call
    small = len(tables) > 1 and sum(table.num_rows for table in tables) * _row_bytes(schema) < _SMALL * len(tables)
    encoding = dict(compression="none", use_dictionary=False) if small else dict(compression="zstd")
    with pq.ParquetWriter(sink, schema, write_page_checksum=True, **encoding) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=max(1, table.num_rows))
    data = memoryview(sink.getvalue()).cast("B")
    footer = bytes(data[-8 - int.from_bytes(data[-8:-4], "little") :])
    place = len(data) - len(footer) + footer.index(_NO_FOOTER.encode())
    data[place : place + 64] = hashlib.sha256(footer).hexdigest().encode()
    return data


def parquet_footer(file: io.IOBase) -> bytes:
    """The bytes of an open Parquet file's footer, which holds the locations of the pages."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 8))
    file.seek(max(0, size - 8 - int.from_bytes(file.read(8)[:4], "little")))
    return file.read()


def _checked_footer(file: io.IOBase) -> pq.FileMetaData:
    """The parsed footer of an open Parquet file; raises ValueError if its checksum does not match."""
    footer = parquet_footer(file)
    read = pq.read_metadata(pa.BufferReader(footer))
    metadata = read.metadata or {}
    found = metadata.get(_FOOTER.encode())
    if found is None:  # written by another program, or damaged at the key of the checksum
        copy = base64.b64decode(metadata.get(b"ARROW:schema", b""))
        whole = _FOOTER.encode() not in footer and _NO_FOOTER.encode() not in copy
    else:
        whole = found.decode() == hashlib.sha256(footer.replace(found, _NO_FOOTER.encode(), 1)).hexdigest()
    if not whole:
        raise ValueError("footer checksum mismatch")
    return read


def write_parquet(path: str, tables: Sequence[pa.Table], metadata: dict[str, str] | None = None) -> str:
    """Writes the file that `parquet_bytes` returns, atomically; returns its SHA-256."""
    data = parquet_bytes(tables, metadata)
    files.write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def parquet_errors(path: str) -> Iterator[None]:
    """Converts the errors that pyarrow raises for a missing, truncated or damaged file into a DataError that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; run the stage that writes it again.") from error
    except UserError:
        raise
    except Exception as error:  # pyarrow raises many kinds, among them ValueError, KeyError and MemoryError
        if isinstance(error, OSError) and error.errno is not None:
            raise
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{path} cannot be read as Parquet ({first}); it is truncated or damaged. "
            "Delete it and its folder's manifest.json, and run the stage that writes it again."
        ) from error


def open_parquet(path: str, columns: Sequence[str] = ()) -> pq.ParquetFile:
    """Opens a Parquet file without reading its rows; the caller closes it.

    Raises:
      DataError: the file is missing, truncated, damaged, or lacks one of `columns`.
    """
    with parquet_errors(path), contextlib.ExitStack() as closing:
        source = closing.enter_context(open_read(path))
        file = pq.ParquetFile(source, metadata=_checked_footer(source), page_checksum_verification=True)
        closing.pop_all()
    names = file.schema_arrow.names
    for column in columns:
        if column not in names:
            file.close(force=True)
            raise DataError(f"{path} has no column {column!r}; it has {names}.")
    return file


def read_parquet(path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads a Parquet file.

    Raises:
      DataError: the file is missing, truncated, damaged, or lacks a column.
    """
    file = open_parquet(path, columns or ())
    try:
        with parquet_errors(path):
            # Threads only for large files: a process that exits while they start is aborted.
            table = file.read(columns, use_threads=file.metadata.num_rows > 2**20)
            metadata = file.schema_arrow.metadata or {}
            if _FOOTER.encode() in metadata:
                _check_nulls(file.metadata, table)
            return table.replace_schema_metadata({k: v for k, v in metadata.items() if k != _FOOTER.encode()} or None)
    finally:
        file.close(force=True)


def _check_nulls(metadata: pq.FileMetaData, table: pa.Table) -> None:
    """Raises ValueError if the number of nulls in the table differs from that in the footer.

    No checksum covers the headers of pages; a damaged header can turn values into nulls.
    """
    names = set(table.column_names)
    for column in range(metadata.num_columns):
        chunks = [metadata.row_group(group).column(column) for group in range(metadata.num_row_groups)]
        counts = [each.statistics.null_count for each in chunks if each.statistics and each.statistics.has_null_count]
        if len(counts) < len(chunks) or not counts or (name := chunks[0].path_in_schema) not in names:
            continue
        if sum(counts) != table[name].null_count:
            raise ValueError(f"column {name} lacks {table[name].null_count} values instead of {sum(counts)}")


def parquet_metadata(table: pa.Table) -> dict[str, str]:
    """The metadata that was given to `write_parquet`."""
    return {
        key.decode(): value.decode()
        for key, value in (table.schema.metadata or {}).items()
        if key not in (b"ARROW:schema", _FOOTER.encode())
    }
