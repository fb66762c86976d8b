"""Conditional writes and removals: only if the file does not exist, or only if it has not changed."""

import contextlib
import os
from collections.abc import Callable

import fsspec

from redundancy.storage import scratch
from redundancy.storage.files import read_bytes, write_bytes
from redundancy.storage.remote import filesystem, is_gs, is_local, patiently, upload


def create_bytes(path: str, data: bytes) -> bool:
    """Writes the whole file unless it exists; if several processes try at once, one succeeds. Returns whether it wrote.

    A remote service's answer may get lost. If the next try then finds a file with the same bytes, this call is taken to
    have written it. So if only one of several writers may succeed, the bytes must identify the writer.
    """
    if not is_local(path):
        return _write_on_condition(path, data, lambda fs, name: upload(fs, name, data, mode="create"))
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


def _write_on_condition(path: str, data: bytes, write: Callable[[fsspec.AbstractFileSystem, str], None]) -> bool:
    """Calls `write`, which raises FileExistsError if its condition does not hold; returns whether it wrote `data`."""
    tries = 0

    def attempt(fs: fsspec.AbstractFileSystem, name: str) -> bool:
        nonlocal tries
        tries += 1
        try:
            write(fs, name)
        except FileExistsError as error:
            # gcs.PerhapsOursError, without importing gcsfs
            perhaps = tries > 1 or type(error) is not FileExistsError
            with contextlib.suppress(FileNotFoundError):
                return perhaps and read_bytes(path) == data
            return False
        return True

    return patiently(path, attempt)


def generation(path: str) -> str | None:
    """A text that changes whenever the file is rewritten, for `remove_if` and `write_if`; None if the file does not exist."""

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
    """Removes a file if its `generation` is still `wanted`; returns whether it removed the file.

    On gs:// this is atomic. Elsewhere another process may rewrite the file between the check and the removal.
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
        except FileExistsError as error:  # the file changed, or an earlier try removed it and the answer got lost
            return type(error) is not FileExistsError and generation(path) is None
        return True

    return patiently(path, delete)


def write_if(path: str, wanted: str, data: bytes) -> bool:
    """Writes a file of at most some megabytes if its `generation` is still `wanted`; returns whether it wrote.

    It is as atomic as `remove_if`, and handles lost answers as `create_bytes` does.
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
