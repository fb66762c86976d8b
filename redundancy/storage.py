"""Local and gs:// paths behind one set of functions: whole-file atomic writes, JSON, Parquet, checksums.

Paths are plain strings. A file is there whole or not at all. Nothing here knows what the files mean.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import posixpath
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from redundancy.errors import DataError

_MOMENT = 2.0  # seconds; FAT's times are no finer
# Of a remote file's entry in a listing, by gcsfs, s3fs, fsspec's own memory and others.
_CHANGING = ("generation", "etag", "ETag", "md5Hash", "crc32c", "mtime", "updated", "LastModified", "created")


def is_local(path: str) -> bool:
    return "://" not in path or path.startswith("file://")


def _filesystem(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    try:
        return fsspec.core.url_to_fs(path)
    except ImportError as error:
        hint = ' Install the extra: pip install "redundancy[gcp]".' if path.startswith(("gs://", "gcs://")) else ""
        raise DataError(f"{path}: {error}.{hint}") from error
    except ValueError as error:
        raise DataError(f"{path}: {error}. Wanted: a local path or gs://bucket/path.") from error


def join(root: str, *parts: str) -> str:
    """`root` and `parts` joined by slashes, for local paths and URLs alike."""
    return posixpath.join(root, *parts)


def exists(path: str) -> bool:
    fs, name = _filesystem(path)
    return fs.exists(name)


def make_dirs(path: str) -> None:
    if is_local(path):
        fs, name = _filesystem(path)
        fs.makedirs(name, exist_ok=True)


def remove(path: str) -> None:
    """Removes a file or a folder with all in it; no error where there is none."""
    fs, name = _filesystem(path)
    for last in (False, False, True):
        try:
            fs.rm(name, recursive=True)
            return
        except FileNotFoundError:
            if last or not fs.exists(name):
                return
        except OSError as error:  # another process removes or writes there too
            if last or error.errno != errno.ENOTEMPTY:
                raise


def list_dir(path: str) -> list[str]:
    """Sorted base names of what lies in a folder; [] where there is no such folder."""
    fs, name = _filesystem(path)
    try:
        # Listings are cached by fsspec's remote file systems; another process may have written since.
        fs.invalidate_cache(name)
        entries = fs.ls(name, detail=False)
    except FileNotFoundError:
        return []
    return sorted(base for entry in entries if (base := posixpath.basename(entry.rstrip("/"))) and base[0] != ".")


def read_bytes(path: str) -> bytes:
    fs, name = _filesystem(path)
    return fs.cat_file(name)


@contextlib.contextmanager
def _scratch(path: str, name: str, data: bytes) -> Iterator[str]:
    """A hidden file beside the local file `name` that holds `data`, to be put in its place; gone afterwards."""
    folder, base = os.path.split(name)
    os.makedirs(folder, exist_ok=True)
    scratch = os.path.join(folder, f".{base}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(scratch, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield scratch
    except OSError as error:
        if error.filename is None:
            error.filename = path
        raise
    finally:
        with contextlib.suppress(OSError):
            os.remove(scratch)


def write_bytes(path: str, data: bytes) -> None:
    """Writes the whole file or nothing: a reader never sees a part, whenever this process dies."""
    fs, name = _filesystem(path)
    if not is_local(path):
        fs.pipe_file(name, data)
        return
    with _scratch(path, name, data) as scratch:
        os.replace(scratch, name)


def create_bytes(path: str, data: bytes) -> bool:
    """Writes the whole file unless there is one; of several that try at once, one succeeds. Returns whether it did."""
    fs, name = _filesystem(path)
    if not is_local(path):
        try:
            fs.pipe_file(name, data, mode="create")
        except FileExistsError:
            return False
        return True
    with _scratch(path, name, data) as scratch:
        try:
            os.link(scratch, name)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            if os.path.exists(name):
                return False
            os.replace(scratch, name)
    return True


def read_json(path: str) -> Any:
    """Raises DataError where the file is not JSON."""
    data = read_bytes(path)
    try:
        return json.loads(data)
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); delete it and run the stage that writes it again.") from error


def write_json(path: str, value: Any) -> None:
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_text(path: str, text: str) -> None:
    write_bytes(path, text.encode())


def open_read(path: str) -> io.IOBase:
    """The file, opened for reading bytes, with seek."""
    fs, name = _filesystem(path)
    return fs.open(name, "rb")


def sha256(path: str) -> str:
    """Hex SHA-256 of the file."""
    digest = hashlib.sha256()
    with open_read(path) as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def stamps(paths: Sequence[str]) -> list[list[str]] | None:
    """For each file what changes when its bytes do, found without reading it.

    Locally that is its size and the times of its last changes; elsewhere what the listing of its folder has of size,
    generation, checksums and time.

    Returns:
      texts for each file. None where one may keep its stamp though its bytes change: the listing has nothing but the
      size, or the file changed within the last two seconds, which are one moment to some file systems.

    Raises:
      OSError: a file is missing, or its folder cannot be listed. Remote file systems raise errors of their own, too.
    """
    listed, found = {}, []
    latest = time.time() - _MOMENT
    for path in paths:
        if is_local(path):
            status = os.stat(path.removeprefix("file://"))
            if status.st_mtime > latest:
                return None
            found.append([str(status.st_size), str(status.st_mtime_ns), str(status.st_ctime_ns)])
            continue
        fs, name = _filesystem(path)
        folder = posixpath.dirname(name)
        if folder not in listed:
            fs.invalidate_cache(folder)
            listed[folder] = {entry["name"]: entry for entry in fs.ls(folder, detail=True)}
        if name not in listed[folder]:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        entry = listed[folder][name]
        changing = [f"{field}={entry[field]}" for field in _CHANGING if entry.get(field)]
        if not changing:
            return None
        found.append([str(entry.get("size")), *changing])
    return found


def parquet_bytes(tables: Sequence[pa.Table], metadata: dict[str, str] | None = None) -> bytes | memoryview:
    """A Parquet file with each table as one row group.

    Args:
      tables: at least one, all of one schema.
      metadata: key-value pairs for the file's schema.
    """
    schema = tables[0].schema.with_metadata(metadata or {})
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table.cast(schema), row_group_size=max(1, table.num_rows))
    return buffer.getbuffer()


def write_parquet(path: str, tables: Sequence[pa.Table], metadata: dict[str, str] | None = None) -> str:
    """Writes what `parquet_bytes` makes, atomically; returns the file's SHA-256."""
    data = parquet_bytes(tables, metadata)
    write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def parquet_errors(path: str) -> Iterator[None]:
    """Turns what pyarrow raises for a missing, truncated or damaged file into a DataError that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; run the stage that writes it again.") from error
    except (pa.ArrowInvalid, pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        first = str(error).splitlines()[0]
        raise DataError(
            f"{path} cannot be read as Parquet ({first}); it is truncated or damaged. "
            "Delete it and its folder's manifest.json, and run the stage that writes it again."
        ) from error


def open_parquet(path: str, columns: Sequence[str] = ()) -> pq.ParquetFile:
    """Opens a Parquet file, whose rows are read when they are asked for; the caller closes it.

    Raises:
      DataError: the file is missing, truncated, damaged, or lacks one of `columns`.
    """
    with parquet_errors(path):
        file = pq.ParquetFile(open_read(path))
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
            # Threads are for large files: a process that ends while they start is aborted.
            table = file.read(columns, use_threads=file.metadata.num_rows > 2**20)
            return table.replace_schema_metadata(file.schema_arrow.metadata)
    finally:
        file.close(force=True)


def parquet_metadata(table: pa.Table) -> dict[str, str]:
    """The key-value pairs that write_parquet was given."""
    return {
        key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items() if key != b"ARROW:schema"
    }
