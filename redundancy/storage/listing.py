"""Lists all files below a folder at once, and detects changes without reading them. Writes nothing."""

import contextlib
import dataclasses
import datetime
import errno
import os
import posixpath
import time
from collections.abc import Mapping, Sequence
from typing import Any

from redundancy.storage.files import open_read
from redundancy.storage.remote import download, filesystem, is_gs, is_local, local_path, patiently
from redundancy.storage.retries import status_of

_MOMENT = 2.0  # seconds, the resolution of time stamps on FAT
# Keys of a remote file's entry in a listing by gcsfs, s3fs, fsspec's memory file system and others.
_CHANGING = ("generation", "etag", "ETag", "md5Hash", "crc32c", "mtime", "updated", "LastModified", "created")


@dataclasses.dataclass(frozen=True)
class File:
    """Size in bytes, and time of the last change in seconds since 1970 (0 if the storage does not report it)."""

    size: int
    time: float


def list_files(root: str) -> dict[str, File]:
    """Every file below `root`, including hidden ones, by its path relative to `root`; {} if there is no such folder.

    Files that are removed during the listing are left out.

    Raises:
      PermissionError: a folder cannot be listed for lack of permission.
      StorageError: there is no such bucket, or the storage cannot be reached.
    """
    if is_local(root):
        return _walk(local_path(root))

    def find(fs, name: str) -> tuple[str, Mapping[str, Mapping[str, Any]]]:
        fs.invalidate_cache(name)
        return name.rstrip("/") + "/", fs.find(name, detail=True)

    try:
        prefix, found = patiently(root, find)
    except FileNotFoundError:
        return {}
    return {
        name.removeprefix(prefix): File(int(entry.get("size") or 0), _seconds(entry))
        for name, entry in found.items()
        if name.startswith(prefix) and not name.endswith("/")
    }


def _seconds(entry: Mapping[str, Any]) -> float:
    """When a remote file was last written, from its entry in a listing."""
    for field in ("updated", "mtime", "LastModified", "last_modified", "created"):
        value = entry.get(field)
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                value = datetime.datetime.fromisoformat(value)
        if isinstance(value, datetime.datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return 0.0


def _walk(root: str) -> dict[str, File]:
    found: dict[str, File] = {}
    seen, folders = set(), [""]
    while folders:
        folder = folders.pop()
        try:
            entries = [*os.scandir(os.path.join(root, folder))]
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in entries:
            name = os.path.join(folder, entry.name)
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat()
                if entry.is_dir():
                    if (of := (status.st_dev, status.st_ino)) not in seen:  # links may form a loop
                        seen.add(of)
                        folders.append(name)
                elif entry.is_file():
                    found[name] = File(status.st_size, status.st_mtime)
    return found


def read_tail(path: str, size: int) -> bytes:
    """The last `size` bytes of a file, or all bytes of a smaller one, with one request.

    Raises:
      FileNotFoundError: the file does not exist.
    """
    if not is_gs(path):
        with open_read(path) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - size))
            return file.read()

    def last(fs, name: str) -> bytes:
        try:
            return download(fs, name, f"-{size}")[1]
        except Exception as error:
            if status_of(error) == 416:  # the file is empty
                return b""
            raise

    return patiently(path, last)


def is_folder(root: str) -> bool:
    """Whether a local folder exists; False for remote paths, where only files exist."""
    return is_local(root) and os.path.isdir(filesystem(root)[1])


def stamps(paths: Sequence[str]) -> list[list[str]] | None:
    """A stamp for each file, which changes when the file's content changes. Reads no file.

    The stamp of a local file consists of its size and the times of its last changes; that of a remote file, of the size,
    generation, checksums and time in the listing of its folder.

    Returns:
      the texts of each file's stamp. None if a file could change without changing its stamp: the listing has only the size,
      or the file changed within the last two seconds, which is the resolution of some file systems.

    Raises:
      OSError: a file is missing, or its folder cannot be listed. Remote file systems also raise their own errors.
    """
    listed, found = {}, []
    latest = time.time() - _MOMENT
    for path in paths:
        if is_local(path):
            status = os.stat(local_path(path))
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
