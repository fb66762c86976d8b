"""All files below a folder by one walk or, on remote storage, one listing; and the last bytes of a file. Writes nothing."""

import contextlib
import dataclasses
import datetime
import os
from collections.abc import Mapping
from typing import Any

from redundancy.remote import download, filesystem, is_gs, is_local, open_remote, patiently
from redundancy.retries import status_of


@dataclasses.dataclass(frozen=True)
class File:
    """Size in bytes and the time of the last change, in seconds since 1970; 0 where the storage does not tell it."""

    size: int
    time: float


def list_files(root: str) -> dict[str, File]:
    """Every file below `root`, hidden ones too, by its name relative to `root`; {} where there is no such folder.

    What vanishes meanwhile is left out.

    Raises:
      PermissionError: a folder may not be looked into.
      StorageError: there is no such bucket, or it cannot be reached.
    """
    if is_local(root):
        return _walk(root.removeprefix("file://"))

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
    """When a remote file was last written, by its entry in a listing."""
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
                    if (of := (status.st_dev, status.st_ino)) not in seen:  # a link may lead back
                        seen.add(of)
                        folders.append(name)
                elif entry.is_file():
                    found[name] = File(status.st_size, status.st_mtime)
    return found


def read_tail(path: str, size: int) -> bytes:
    """The last `size` bytes of a file, or all of a smaller one, by one request.

    Raises:
      FileNotFoundError: there is none.
    """
    if is_local(path):
        with open(path.removeprefix("file://"), "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - size))
            return file.read()
    if not is_gs(path):
        with open_remote(path) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - size))
            return file.read()

    def last(fs, name: str) -> bytes:
        try:
            return download(fs, name, f"-{size}")[1]
        except Exception as error:
            if status_of(error) == 416:  # it is empty
                return b""
            raise

    return patiently(path, last)


def is_folder(root: str) -> bool:
    """Whether a local folder is there; a remote one is there if something is in it, and so never by this."""
    return is_local(root) and os.path.isdir(filesystem(root)[1])
