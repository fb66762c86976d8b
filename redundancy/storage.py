"""Local and gs:// paths behind one set of functions: whole-file atomic writes, JSON, Parquet, checksums.

Paths are plain strings. A file is there whole or not at all. What fails for a while on a remote path is tried again,
see `retries`; what fails for good is an error that names the path. Nothing here knows what the files mean.
"""

import base64
import contextlib
import errno
import hashlib
import io
import json
import os
import posixpath
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from redundancy import scratch
from redundancy.remote import download, filesystem, is_gs, open_remote, patiently, upload
from redundancy.remote import is_local as is_local
from redundancy.retries import is_transient as is_transient
from redundancy.retries import retrying as retrying
from redundancy.runtime.errors import DataError, UserError

_MOMENT = 2.0  # seconds; FAT's times are no finer
# Of a remote file's entry in a listing, by gcsfs, s3fs, fsspec's own memory and others.
_CHANGING = ("generation", "etag", "ETag", "md5Hash", "crc32c", "mtime", "updated", "LastModified", "created")
_CHECKSUM = "sha256_of_rest"  # in a JSON object, of the canonical JSON of its other keys
# In a Parquet file's metadata, of its footer with these 64 characters where the checksum will be.
_FOOTER, _NO_FOOTER = (
    "redundancy.footer_sha256",
    "the SHA-256 of the footer with this text instead of it".ljust(64, "."),
)


def join(root: str, *parts: str) -> str:
    """`root` and `parts` joined by slashes, for local paths and URLs alike."""
    return posixpath.join(root, *parts)


def exists(path: str) -> bool:
    def look(fs: fsspec.AbstractFileSystem, name: str) -> bool:
        if is_local(path):
            return fs.exists(name)
        if not is_gs(path):  # where `exists` is False for any error
            try:
                fs.info(name)
            except FileNotFoundError:
                return False
            return True
        # gcsfs asks for the object and for the folder at once, and drops the connection of the slower answer.
        bucket, _, key = name.rstrip("/").partition("/")
        with contextlib.suppress(FileNotFoundError):
            if key:
                fs.call("GET", "b/{}/o/{}", bucket, key)
                return True
        prefix = f"{key}/" if key else None
        listed = fs.call("GET", "b/{}/o", bucket, prefix=prefix, maxResults=1, json_out=True)
        return not key or bool(listed.get("items"))

    return patiently(path, look)


def make_dirs(path: str) -> None:
    if is_local(path):
        fs, name = filesystem(path)
        fs.makedirs(name, exist_ok=True)


def remove(path: str) -> None:
    """Removes a file or a folder with all in it; no error where there is none."""

    def delete(fs: fsspec.AbstractFileSystem, name: str) -> None:
        for last in (False, False, True):
            try:
                # Of gs:// the objects alone, which are all there is; gcsfs would ask for folders' objects, too.
                fs.rm(fs.find(name) if is_gs(path) else name, recursive=not is_gs(path))
                return
            except FileNotFoundError:
                if last or is_gs(path) or not fs.exists(name):
                    return
            except OSError as error:  # another process removes or writes there too
                if last or error.errno != errno.ENOTEMPTY:
                    raise

    patiently(path, delete)


def list_dir(path: str, hidden: bool = False) -> list[str]:
    """Sorted base names of what lies in a folder; [] where there is no such folder. Hidden files, with a dot, if asked."""

    def listed(fs: fsspec.AbstractFileSystem, name: str) -> list[str]:
        # Listings are cached by fsspec's remote file systems; another process may have written since.
        fs.invalidate_cache(name)
        return fs.ls(name, detail=False)

    try:
        entries = patiently(path, listed)
    except FileNotFoundError:
        return []
    names = [posixpath.basename(entry.rstrip("/")) for entry in entries]
    return sorted(name for name in names if name and (hidden or name[0] != "."))


def read_bytes(path: str) -> bytes:
    return patiently(path, lambda fs, name: download(fs, name)[1] if is_gs(path) else fs.cat_file(name))


def write_bytes(path: str, data: bytes) -> None:
    """Writes the whole file or nothing: a reader never sees a part, whenever this process dies."""
    if not is_local(path):
        patiently(path, lambda fs, name: upload(fs, name, data))
        return
    _, name = filesystem(path)
    with scratch.scratch_file(path, name, data) as hidden:
        os.replace(hidden, name)


def create_bytes(path: str, data: bytes) -> bool:
    """Writes the whole file unless there is one; of several that try at once, one succeeds. Returns whether it did.

    Where the answer of a remote service got lost, and the next try finds a file, it is taken for this one if it holds
    the same bytes. So let them name who creates it, where two that write the same must not both succeed.
    """
    if is_local(path):
        return _create_local(path, data)
    return _write_on_condition(path, data, lambda fs, name: upload(fs, name, data, mode="create"))


def _write_on_condition(path: str, data: bytes, write: Callable[[fsspec.AbstractFileSystem, str], None]) -> bool:
    """Whether `write`, which raises FileExistsError where its condition does not hold, wrote `data`."""
    tries = 0

    def attempt(fs: fsspec.AbstractFileSystem, name: str) -> bool:
        nonlocal tries
        tries += 1
        try:
            write(fs, name)
        except FileExistsError as error:
            # gcs.PerhapsOursError, without importing gcsfs
            perhaps = tries > 1 or type(error) is not FileExistsError
            return perhaps and _read_if_there(path) == data
        return True

    return patiently(path, attempt)


def remove_scratch(folder: str) -> list[str]:
    """Removes what processes that were killed while they wrote left in a local folder and all below it.

    That is their hidden files whose process has ended, or, where that cannot be told since another machine wrote
    them, that are older than a day. Another process may be writing there. Nothing is done on remote paths, where an
    upload that did not end leaves nothing.

    Returns:
      the files that were removed.
    """
    return scratch.remove_scratch(folder.removeprefix("file://")) if is_local(folder) else []


def _read_if_there(path: str) -> bytes | None:
    try:
        return read_bytes(path)
    except FileNotFoundError:
        return None


def _create_local(path: str, data: bytes) -> bool:
    _, name = filesystem(path)
    with scratch.scratch_file(path, name, data) as hidden:
        try:
            os.link(hidden, name)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            if os.path.exists(name):
                return False
            os.replace(hidden, name)
    return True


def generation(path: str) -> str | None:
    """What changes whenever the file is written again, or None where there is none; for `remove_if` and `write_if`."""

    def look(fs: fsspec.AbstractFileSystem, name: str) -> str:
        if is_gs(path):
            return fs.call("GET", "b/{}/o/{}", *name.split("/", 1), json_out=True)["generation"]
        if is_local(path):
            status = os.stat(name)
            return f"{status.st_dev}-{status.st_ino}-{status.st_ctime_ns}"
        return str(fs.info(name).get("created"))

    try:
        return patiently(path, look)
    except FileNotFoundError:
        return None


def remove_if(path: str, wanted: str) -> bool:
    """Removes a file if its `generation` still is `wanted`; returns whether it did.

    On gs:// it is one step: what another process wrote meanwhile stays. Elsewhere it is two.
    """

    def delete(fs: fsspec.AbstractFileSystem, name: str) -> bool:
        try:
            if is_gs(path):
                fs.call("DELETE", "b/{}/o/{}", *name.split("/", 1), ifGenerationMatch=wanted)
            elif generation(path) != wanted:
                return False
            else:
                fs.rm_file(name)
        except FileNotFoundError:
            return False
        except FileExistsError as error:  # the condition does not hold; perhaps since a try whose answer got lost
            return type(error) is not FileExistsError and generation(path) is None
        return True

    return patiently(path, delete)


def write_if(path: str, wanted: str, data: bytes) -> bool:
    """Writes a file, of some megabytes at most, if its `generation` still is `wanted`; returns whether it did.

    One step and two, as with `remove_if`; what a lost answer means, as with `create_bytes`.
    """
    if not is_gs(path):
        if generation(path) != wanted:
            return False
        write_bytes(path, data)
        return True

    def write(fs: fsspec.AbstractFileSystem, name: str) -> None:
        url = fs.url(name).replace("/download/", "/upload/", 1).partition("/o/")[0] + "/o"
        fs.call("POST", url, uploadType="media", name=name.split("/", 1)[1], ifGenerationMatch=wanted, data=data)

    return _write_on_condition(path, data, write)


def _canonical_sha256(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def read_json(path: str) -> Any:
    """What `write_json` wrote, or the JSON that others did, which has no checksum.

    Raises:
      DataError: the file is not JSON, or not what was written.
    """
    data = read_bytes(path)
    try:
        value = json.loads(data, parse_constant=_no_number)
        if b"\\u" in data:  # halves of letters, which cannot be written again
            json.dumps(value, ensure_ascii=False).encode()
        if not isinstance(value, dict) or _CHECKSUM not in value:
            return value
        found = value.pop(_CHECKSUM)
        whole = found == _canonical_sha256(value)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}); delete it and run the stage that writes it again.") from error
    if not whole:
        raise DataError(
            f"{path} was changed or damaged since it was written: {_CHECKSUM!r} does not fit. Delete the file and run "
            "the stage that writes it again; or, if you changed it on purpose, take that line out of it."
        )
    return value


def json_bytes(value: Any) -> bytes:
    """What `write_json` writes."""
    if isinstance(value, dict):
        rest = json.loads(json.dumps({key: value[key] for key in value if key != _CHECKSUM}, allow_nan=False))
        value = {**rest, _CHECKSUM: _canonical_sha256(rest)}
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_json(path: str, value: Any) -> None:
    """Writes JSON; an object gets a last key with a checksum of the others, which `read_json` takes off again."""
    write_bytes(path, json_bytes(value))


def change_json(path: str, seen: str | None, value: Any) -> bool:
    """As `write_json`, if the file's `generation` still is `seen`, None where there was no file; returns whether it wrote."""
    data = json_bytes(value)
    return create_bytes(path, data) if seen is None else write_if(path, seen, data)


def write_text(path: str, text: str) -> None:
    write_bytes(path, text.encode())


def open_read(path: str) -> io.IOBase:
    """The file, opened for reading bytes, with seek."""
    if not is_local(path):
        return open_remote(path)
    fs, name = filesystem(path)
    return fs.open(name, "rb")


def sha256(path: str) -> str:
    """Hex SHA-256 of the file."""
    digest = hashlib.sha256()
    with open_read(path) as file:
        while block := file.read(1 << (22 if is_local(path) else 25)):
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
        fs, name = filesystem(path)
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
    """A Parquet file with each table as one row group, and checksums of each page and of the footer.

    Args:
      tables: at least one, all of one schema.
      metadata: key-value pairs for the file's schema.
    """
    schema = tables[0].schema.with_metadata({**(metadata or {}), _FOOTER: _NO_FOOTER})
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, schema, compression="zstd", write_page_checksum=True) as writer:
        for table in tables:
            writer.write_table(table.cast(schema), row_group_size=max(1, table.num_rows))
    data = buffer.getbuffer()
    footer = bytes(data[-8 - int.from_bytes(data[-8:-4], "little") :])
    place = len(data) - len(footer) + footer.index(_NO_FOOTER.encode())
    data[place : place + 64] = hashlib.sha256(footer).hexdigest().encode()
    return data


def parquet_footer(file: io.IOBase) -> bytes:
    """The footer of an open Parquet file, which tells where its pages lie."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 8))
    file.seek(max(0, size - 8 - int.from_bytes(file.read(8)[:4], "little")))
    return file.read()


def _parquet_footer(file: io.IOBase) -> pq.FileMetaData:
    """What the footer of an open Parquet file tells; raises ValueError where its checksum is another."""
    footer = parquet_footer(file)
    read = pq.read_metadata(pa.BufferReader(footer))
    metadata = read.metadata or {}
    found = metadata.get(_FOOTER.encode())
    if found is None:  # a file of another program's; unless that byte is damaged which would lead to the checksum
        copy = base64.b64decode(metadata.get(b"ARROW:schema", b""))
        whole = _FOOTER.encode() not in footer and _NO_FOOTER.encode() not in copy
    else:
        whole = found.decode() == hashlib.sha256(footer.replace(found, _NO_FOOTER.encode(), 1)).hexdigest()
    if not whole:
        raise ValueError("the checksum of its footer is another")
    return read


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
    except UserError:
        raise
    except Exception as error:  # of pyarrow's many, ValueError, KeyError and MemoryError are met
        if isinstance(error, OSError) and error.errno is not None:
            raise
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{path} cannot be read as Parquet ({first}); it is truncated or damaged. "
            "Delete it and its folder's manifest.json, and run the stage that writes it again."
        ) from error


def open_parquet(path: str, columns: Sequence[str] = ()) -> pq.ParquetFile:
    """Opens a Parquet file, whose rows are read when they are asked for; the caller closes it.

    Raises:
      DataError: the file is missing, truncated, damaged, or lacks one of `columns`.
    """
    with parquet_errors(path), contextlib.ExitStack() as closing:
        source = closing.enter_context(open_read(path))
        file = pq.ParquetFile(source, metadata=_parquet_footer(source), page_checksum_verification=True)
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
            # Threads are for large files: a process that ends while they start is aborted.
            table = file.read(columns, use_threads=file.metadata.num_rows > 2**20)
            metadata = file.schema_arrow.metadata or {}
            if _FOOTER.encode() in metadata:
                _check_nulls(file.metadata, table)
            return table.replace_schema_metadata({k: v for k, v in metadata.items() if k != _FOOTER.encode()} or None)
    finally:
        file.close(force=True)


def _check_nulls(metadata: pq.FileMetaData, table: pa.Table) -> None:
    """Raises ValueError where more or fewer values are missing than the footer tells.

    The heads of the pages, which say how they are written, are in no checksum; with this one wrong, values get lost.
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
    """The key-value pairs that write_parquet was given."""
    return {
        key.decode(): value.decode()
        for key, value in (table.schema.metadata or {}).items()
        if key not in (b"ARROW:schema", _FOOTER.encode())
    }
