"""Hidden files that local files are written to before they take their place, and what killed processes left of them."""

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
_OLD = 86400.0  # seconds


@functools.cache
def _machine() -> str:
    return hashlib.sha256(machine.identity().encode()).hexdigest()[:12]


@contextlib.contextmanager
def scratch_file(path: str, name: str, data: bytes) -> Iterator[str]:
    """A hidden file beside the local file `name` that holds `data`, to be put in its place; gone afterwards."""
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
    """Removes what processes that were killed while they wrote left in a local folder and all below it.

    These are hidden files whose process has ended or, if another machine wrote them, that are older than a day. Another
    process may be writing there. On remote paths an upload that did not end leaves nothing to remove.

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
