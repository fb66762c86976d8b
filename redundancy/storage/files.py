"""Whole files, local or gs://: read, written atomically, listed, removed, checksummed."""

import contextlib
import errno
import hashlib
import io
import os
import posixpath

import fsspec

from redundancy.runtime.errors import DataError
from redundancy.storage import scratch
from redundancy.storage.remote import download, filesystem, is_gs, is_local, open_remote, patiently, upload


def join(root: str, *parts: str) -> str:
    """Joins `root` and `parts` by slashes, for both local paths and URLs."""
    return posixpath.join(root, *parts)


def exists(path: str) -> bool:
    def look(fs: fsspec.AbstractFileSystem, name: str) -> bool:
        if is_local(path):
            return fs.exists(name)
        if not is_gs(path):  # fsspec's `exists` returns False for any error
            try:
                fs.info(name)
            except FileNotFoundError:
                return False
            return True
        # Avoids gcsfs's `exists`, which requests object and folder at once and drops the connection of the slower answer.
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
    """Removes a file, or a folder with all its files; does nothing if it does not exist."""

    def delete(fs: fsspec.AbstractFileSystem, name: str) -> None:
        for last in (False, False, True):
            try:
                # On gs:// only objects exist; gcsfs would also look for objects that represent folders.
                fs.rm(fs.find(name) if is_gs(path) else name, recursive=not is_gs(path))
                return
            except FileNotFoundError:
                if last or is_gs(path) or not fs.exists(name):
                    return
            except OSError as error:  # another process may be removing or writing files there
                if last or error.errno != errno.ENOTEMPTY:
                    raise

    patiently(path, delete)


def list_dir(path: str, hidden: bool = False) -> list[str]:
    """Sorted base names of the entries of a folder, including dot files if `hidden`; [] if there is no such folder."""

    def listed(fs: fsspec.AbstractFileSystem, name: str) -> list[str]:
        # fsspec's remote file systems cache listings, but another process may have written since.
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
    """Writes the file atomically: readers never see a partial file, even if this process is killed."""
    if not is_local(path):
        patiently(path, lambda fs, name: upload(fs, name, data))
        return
    _, name = filesystem(path)
    with scratch.scratch_file(path, name, data) as hidden:
        os.replace(hidden, name)


def write_text(path: str, text: str) -> None:
    write_bytes(path, text.encode())


def open_read(path: str) -> io.IOBase:
    """Opens the file for reading bytes; the result is seekable."""
    if not is_local(path):
        return open_remote(path)
    fs, name = filesystem(path)
    return fs.open(name, "rb")


def sha256(path: str) -> str:
    """SHA-256 of the file in hexadecimal."""
    digest = hashlib.sha256()
    with open_read(path) as file:
        while block := file.read(1 << (22 if is_local(path) else 25)):
            digest.update(block)
    return digest.hexdigest()


def check_sha256(path: str, wanted: str, remedy: str) -> None:
    """Raises DataError if a file is missing or its SHA-256 is not `wanted`; the message ends with `remedy`."""
    if not exists(path) or sha256(path) != wanted:
        raise DataError(f"{path} is missing, damaged or another file than the manifest names. {remedy}")
