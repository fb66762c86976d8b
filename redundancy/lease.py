"""One command at a time in a workdir: a lease that its owner holds, and that a dead owner does not hold for ever.

In a local workdir it is a lock on the file .lock, which the system releases when its owner ends, however it ends. On gs://,
and where files cannot be locked, it is the file .lease.json, which the owner writes anew every few seconds.
"""

import contextlib
import datetime
import errno
import json
import os
import pathlib
import socket
import sys
import threading
import time
import uuid
from typing import Any

from absl import logging

from redundancy import storage
from redundancy.errors import StorageError, UserError, WorkdirError

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None

LOCK, LEASE = ".lock", ".lease.json"
RENEW_S = 10.0
STALE_S = 60.0  # an owner that did not renew its lease for so long is dead
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


def _host() -> str:
    """This machine since it was started, and the set of process numbers that this process sees, as in a container."""
    parts = [socket.gethostname()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with contextlib.suppress(OSError):
            parts.append(os.readlink(path) if os.path.islink(path) else pathlib.Path(path).read_text().strip())
    return " ".join(parts)


def _started(pid: int) -> str | None:
    """When the process of this machine started, in the system's ticks; None where there is none, or it cannot be told."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return None


def _owner() -> dict[str, Any]:
    pid = os.getpid()
    return {
        "token": uuid.uuid4().hex,
        "host": _host(),
        "pid": pid,
        "started": _started(pid),
        "command": " ".join(sys.argv[1:2]),
        "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _is_dead(owner: dict[str, Any]) -> bool:
    """Whether the owner was a process of this machine and is no more; False where that cannot be told."""
    if owner.get("host") != _host() or not isinstance(owner.get("pid"), int) or not os.path.isdir("/proc/self"):
        return False
    return _started(owner["pid"]) != owner.get("started")


def _in_use(root: str, owner: dict[str, Any]) -> WorkdirError:
    host = str(owner.get("host", "another host")).split(" ")[0]
    return WorkdirError(
        f'{root} is in use: "redundancy {owner.get("command", "")}" runs there as process {owner.get("pid", "?")} on {host} '
        f"since {owner.get('since', '?')}. Wait until it has ended, or end it (kill {owner.get('pid', 'PID')}), or choose "
        "another --workdir."
    )


def _parse(data: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        if isinstance(found := json.loads(data), dict):
            return found
    return {}


class Lease:
    """The right to write in a workdir, held from `acquire` to `release`.

    Args:
      root: of the workdir, local or gs://.

    Attributes:
      token: tells this lease from every other one; "" where there is none.
    """

    def __init__(self, root: str):
        self._root, self._owner = root, _owner()
        self._descriptor = self._thread = self._path = None
        self._ended, self._made = threading.Event(), []
        self.token = ""

    def acquire(self) -> None:
        """Takes the lease.

        Raises:
          WorkdirError: another process holds it, or the workdir cannot be written to.
        """
        try:
            self._make_dirs()
            if not (storage.is_local(self._root) and fcntl and self._lock()):
                self._write_lease()
        except OSError as error:
            raise WorkdirError(
                f"--workdir {self._root} cannot be written to ({error.strerror or error}). Choose another folder."
            ) from error
        self.token = self._owner["token"]

    def __enter__(self):
        self.acquire()
        return self

    def __exit__(self, *exception):
        self.release()

    def release(self) -> None:
        """Gives the lease back; nothing where none is held."""
        self._ended.set()
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.remove(self._path)
            os.close(self._descriptor)
            self._descriptor = None
        elif self.token:
            if self._thread is not threading.current_thread():
                self._thread.join()
            with contextlib.suppress(UserError, OSError):
                if _parse(storage.read_bytes(self._path)).get("token") == self.token:
                    storage.remove(self._path)
        else:
            return
        self.token = ""
        with contextlib.suppress(OSError):  # there is something in it
            for folder in self._made:
                os.rmdir(folder)

    def _make_dirs(self) -> None:
        """Makes the workdir; remembers which folders were not there, to leave none behind where nothing is written."""
        if not storage.is_local(self._root):
            return
        path = os.path.abspath(self._root.removeprefix("file://"))
        while not os.path.exists(path):
            self._made.append(path)
            path = os.path.dirname(path)
        storage.make_dirs(self._root)

    def _lock(self) -> bool:
        """Locks the local file; False where the file system has no locks."""
        self._path = os.path.join(self._root.removeprefix("file://"), LOCK)
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                owner = _parse(os.pread(descriptor, 4096, 0))
                os.close(descriptor)
                if error.errno in _NO_LOCKS:
                    return False
                raise _in_use(self._root, owner) from None
            # An owner removes the file when it ends; this lock may be of a file that is no longer there.
            with contextlib.suppress(FileNotFoundError):
                if os.stat(self._path).st_ino == os.fstat(descriptor).st_ino:
                    break
            os.close(descriptor)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(self._owner).encode(), 0)
        self._descriptor = descriptor
        return True

    def _content(self) -> bytes:
        return json.dumps({**self._owner, "renewed": time.time()}).encode()

    def _read(self) -> tuple[str | None, bytes]:
        """The generation and the content of the lease that is there; (None, b"") where there is none."""
        generation = storage.generation(self._path)
        try:
            return generation, storage.read_bytes(self._path) if generation is not None else b""
        except FileNotFoundError:
            return None, b""

    def _write_lease(self) -> None:
        self._path = storage.join(self._root, LEASE)
        while not storage.create_bytes(self._path, self._content()):
            generation, content = self._read()
            owner = _parse(content)
            if owner.get("token") == self._owner["token"]:
                break  # the answer to our own request was lost
            if generation is None:
                continue
            if not _is_dead(owner):
                logging.info(
                    "%s has a lease (%s); waiting to see whether its owner lives", self._root, owner.get("host")
                )
                deadline = time.monotonic() + STALE_S
                while time.monotonic() < deadline:
                    time.sleep(min(2.0, STALE_S / 5))
                    if self._read()[0] != generation:
                        break
                else:
                    logging.info("%s: the owner of the lease did not renew it and counts as dead", self._root)
                    storage.remove_if(self._path, generation)
                    continue
                if self._read()[0] is not None:
                    raise _in_use(self._root, owner)
                continue  # it was given back meanwhile
            storage.remove_if(self._path, generation)
        self._thread = threading.Thread(target=self._renew, daemon=True, name="lease")
        self._thread.start()

    def _renew(self) -> None:
        generation = None
        while not self._ended.wait(RENEW_S):
            try:
                # What another process wrote meanwhile is never overwritten.
                if generation is None or not storage.write_if(self._path, generation, self._content()):
                    _, content = self._read()
                    if _parse(content).get("token") != self._owner["token"]:
                        self._end()
                generation = storage.generation(self._path)
            except (UserError, OSError) as error:  # the work itself will meet this, and tells it
                logging.warning("%s: the lease could not be renewed (%s)", self._root, str(error).splitlines()[0])

    def _end(self) -> None:
        print(
            f"redundancy: error: another process has taken {self._root} over, since this one could not renew its lease in "
            "time. What was finished is kept; give the same command again when that one has ended.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)


def is_held(root: str, token: str) -> bool:
    """Whether the lease in the workdir, as this process sees it, is the one with this token."""
    name = LOCK if storage.is_local(root) else LEASE
    for candidate in (name, LEASE):
        with contextlib.suppress(FileNotFoundError, StorageError):
            if _parse(storage.read_bytes(storage.join(root, candidate))).get("token") == token:
                return True
    return False
