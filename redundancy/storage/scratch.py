"""Hidden files to which local files are written before a rename, and the removal of those that killed processes left."""

import contextlib
import functools
import hashlib
import os
import re
import time
import uuid
from collections.abc import Iterator

from redundancy.runtime import machine
from redundancy.storage.remote import is_local, local_path

_NAME = re.compile(r"\..+\.writer-([0-9a-f]{12})-(\d+)-[0-9a-f]{8}\.tmp")
_OLD = 86400.0  # seconds after which a file of another machine counts as left behind


@functools.cache
def _machine() -> str:
    return hashlib.sha256(machine.identity().encode()).hexdigest()[:12]


@contextlib.contextmanager
def scratch_file(path: str, name: str, data: bytes) -> Iterator[str]:
    """Yields the path of a hidden file with `data`, to be renamed to the local file `name` beside it; removes it on exit."""
    folder, base = os.path.split(name)
    os.makedirs(folder, exist_ok=True)
    writer = f"writer-{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    scratch = os.path.join(folder, f".{base}.{writer}.tmp")
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


def remove_scratch(folder: str) -> list[str]:
    """Removes the hidden files that killed processes left in a local folder and all folders below it.

    A file is removed if its process has ended or, if another machine wrote it, if it is older than a day. Other processes may
    write there at the same time. Remote paths have no such files, since an interrupted upload leaves nothing.

    Returns:
      the files that were removed.
    """
    removed, folders = [], [local_path(folder)] if is_local(folder) else []
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.name[0] != ".":
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    continue
                if not (found := _NAME.fullmatch(entry.name)):
                    continue
                with contextlib.suppress(OSError):
                    here = found[1] == _machine()
                    old = time.time() - entry.stat(follow_symlinks=False).st_mtime > _OLD
                    if old or (here and machine.has_ended(int(found[2]))):
                        os.remove(entry.path)
                        removed.append(entry.path)
    return removed
