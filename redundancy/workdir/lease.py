"""Allows one command at a time in a workdir, or the parts of one sweep; the lease of a dead owner expires.

In a local workdir the owner locks the file .lock, and the system releases the lock whenever the owner ends. On gs://, and on
file systems without locks, the owner rewrites the file .lease.json every few seconds. Each part of a sweep has its own file
and, where locks are used, also a shared lock on .lock.
"""

import contextlib
import errno
import json
import os
import posixpath
import re
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any

from absl import logging

from redundancy import storage
from redundancy.runtime.errors import StorageError, UserError, WorkdirError
from redundancy.workdir.owner import in_use, is_dead, parse, this
from redundancy.workdir.parts import Part, suffix

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None

LOCK, LEASE = ".lock", ".lease.json"
RENEW_S = 10.0
STALE_S = 60.0  # an owner that has not renewed its lease for this time counts as dead
_MOMENT_S = 1.0  # for at most this time, an ending process, or one that checks for others, may hold a lock
_OF_PART = re.compile(r"\.(lock|lease)-part-[0-9]+-of-([0-9]+)(\.json)?")
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


def _names(part: Part | None) -> tuple[str, str]:
    """File names of the lock and of the lease."""
    return f".lock{suffix(part)}", f".lease{suffix(part)}.json"


def is_name(name: str) -> bool:
    """Whether a file in a workdir, given its name, is a lock or a lease."""
    return name in (LOCK, LEASE) or _OF_PART.fullmatch(name) is not None


class Lease:
    """The right to write in a workdir, held from `acquire` to `release`.

    Args:
      root: path of the workdir, local or gs://.
      part: part of a sweep, with which other parts of the same division may work concurrently; None excludes all others.

    Attributes:
      token: unique text of this lease; "" while it is not held.
    """

    def __init__(self, root: str, part: Part | None = None):
        self._root, self._part, self._owner = root, part, this(part)
        self._lock_name, self._lease_name = _names(part)
        self._path = storage.join(root, self._lease_name)
        self._locks: list[tuple[str, int]] = []
        self._thread = None
        self._ended, self._made = threading.Event(), []
        self.token = ""

    def acquire(self) -> str:
        """Takes the lease; returns its token.

        Raises:
          WorkdirError: another process holds it, or the workdir cannot be written to.
        """
        try:
            self._make_dirs()
            if not (storage.is_local(self._root) and fcntl and self._lock()):
                self._write_lease()
            return self.token
        except BaseException as error:
            self.release()
            if isinstance(error, OSError):
                raise WorkdirError(
                    f"--workdir {self._root} cannot be written to ({error.strerror or error}). Choose another folder."
                ) from error
            raise

    def __enter__(self):
        self.acquire()
        return self

    def __exit__(self, *exception):
        self.release()

    def agree(self, table: str) -> None:
        """Records how this part divides the sweep, and raises if another working part divides it differently.

        Args:
          table: checksum of everything on which the parts must agree.

        Raises:
          WorkdirError: another working part has recorded a different checksum.
        """
        self._owner["table"] = table
        if self._locks:
            self._tell(self._locks[-1][1])
            self._refuse(self._locked_parts())
            return
        generation, content = self._read(self._path)
        while parse(content).get("token") == self.token:
            if storage.write_if(self._path, generation, self._content()):
                self._refuse(self._living(self._others()))
                return
            generation, content = self._read(self._path)
        self._end()

    def release(self) -> None:
        """Releases the lease; does nothing if it is not held."""
        self._ended.set()
        while self._locks:
            path, descriptor = self._locks.pop()
            with contextlib.suppress(OSError):  # fails if others share the lock
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.remove(path)
            os.close(descriptor)
        thread, self._thread = self._thread, None
        if thread is not None:
            if thread is not threading.current_thread():
                thread.join()
            with contextlib.suppress(UserError, OSError):
                if parse(storage.read_bytes(self._path)).get("token") == self._owner["token"]:
                    storage.remove(self._path)
        self.token = ""
        made, self._made = self._made, []
        with contextlib.suppress(OSError):  # fails if the folder is not empty
            for folder in made:
                os.rmdir(folder)

    def _make_dirs(self) -> None:
        """Creates the workdir and notes which folders it created; `release` removes those that are still empty."""
        if not storage.is_local(self._root):
            return
        path = os.path.abspath(storage.local_path(self._root))
        while not os.path.exists(path):
            self._made.append(path)
            path = os.path.dirname(path)
        storage.make_dirs(self._root)

    def _excludes(self, name: str, owner: dict[str, Any] | None = None) -> bool:
        """Whether the owner of the file `name` excludes this process; if `owner` is None, whether any owner could."""
        of = _OF_PART.fullmatch(name)
        if self._part is None or name == self._lease_name or of is None or int(of[2]) != self._part.count:
            return True
        table = self._owner.get("table")
        return table is not None and (owner is None or owner.get("table") not in (None, table))

    def _refuse(self, owner: dict[str, Any] | None) -> None:
        """Raises WorkdirError if `owner` excludes this process."""
        if owner is None:
            return
        error = in_use(self._root, owner)
        if self._part is None or not str(owner.get("command")).endswith(f"/{self._part.count}"):
            raise error
        raise WorkdirError(
            f"{error} Its sweep has other runs or other packs: give all parts the same config, and machines with as many "
            "devices of the same kind."
        )

    def _lock(self) -> bool:
        """Locks the local files; False if the file system has no locks."""
        if self._part is None:
            if not self._take(LOCK, fcntl.LOCK_EX):
                return False
            for path in self._part_locks():  # left by killed parts only: a living part would share the lock
                os.remove(path)
        else:
            if not self._take(LOCK, fcntl.LOCK_SH):
                return False
            self._refuse(self._locked_parts())
            self._take(self._lock_name, fcntl.LOCK_EX)
            self._refuse(self._locked_parts())  # a part may have begun at the same moment
        self.token = self._owner["token"]
        return True

    def _take(self, name: str, mode: int) -> bool:
        path = os.path.join(storage.local_path(self._root), name)
        patience = time.monotonic() + (0 if self._part is None else _MOMENT_S)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
            except OSError as error:
                owner = parse(os.pread(descriptor, 4096, 0))
                os.close(descriptor)
                if error.errno in _NO_LOCKS:
                    return False
                if time.monotonic() > patience:
                    raise in_use(self._root, (name == LOCK and self._locked_parts()) or owner) from None
                time.sleep(0.05)
                continue
            # An owner removes the file when it ends, so this may be a lock on a removed file.
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                    break
            os.close(descriptor)
        self._locks.append((path, descriptor))
        if mode == fcntl.LOCK_EX:
            self._tell(descriptor)
        return True

    def _tell(self, descriptor: int) -> None:
        data = json.dumps(self._owner).encode()
        os.pwrite(descriptor, data, 0)
        os.ftruncate(descriptor, len(data))

    def _part_files(self, kind: str) -> set[str]:
        """Names of the locks or leases of parts of a sweep in the workdir."""
        found = map(_OF_PART.fullmatch, storage.list_dir(self._root, hidden=True))
        return {each[0] for each in found if each and each[1] == kind}

    def _part_locks(self) -> list[str]:
        """Lock files of the other parts of a sweep, whether locked or left behind."""
        names = self._part_files("lock") - {self._lock_name}
        return [os.path.join(storage.local_path(self._root), name) for name in sorted(names)]

    def _locked_parts(self) -> dict[str, Any] | None:
        """The owner of a working part that excludes this process, or None."""
        for path in self._part_locks():
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                owner = parse(os.pread(descriptor, 4096, 0))
                if self._excludes(os.path.basename(path), owner):
                    return owner
            finally:
                os.close(descriptor)
        return None

    def _content(self) -> bytes:
        return json.dumps({**self._owner, "renewed": time.time()}).encode()

    def _read(self, path: str) -> tuple[str | None, bytes]:
        """The generation and the content of a lease file; (None, b"") if there is none."""
        generation = storage.generation(path)
        try:
            return generation, storage.read_bytes(path) if generation is not None else b""
        except FileNotFoundError:
            return None, b""

    def _write_lease(self) -> None:
        # Checked before writing, so that a refused process leaves nothing, and again afterwards, for concurrent starts.
        self._refuse(self._living(self._others()))
        while not storage.create_bytes(self._path, self._content()):
            if parse(self._read(self._path)[1]).get("token") == self._owner["token"]:
                break  # we wrote it: only the answer to our request was lost
            if owner := self._living([self._path]):
                raise in_use(self._root, owner)
        thread = threading.Thread(target=self._renew, daemon=True, name="lease")
        thread.start()
        self._thread, self.token = thread, self._owner["token"]
        self._refuse(self._living(self._others()))

    def _others(self) -> list[str]:
        """Paths of other leases that may exclude this process."""
        names = {LEASE, *self._part_files("lease")} - {self._lease_name}
        return [storage.join(self._root, name) for name in sorted(names) if self._excludes(name)]

    def _living(self, paths: Iterable[str]) -> dict[str, Any] | None:
        """The owner of a renewed lease that excludes this process, or None. Removes leases of dead owners."""
        seen = {}
        for path in paths:
            generation, content = self._read(path)
            owner = parse(content)
            if generation is None or not self._excludes(posixpath.basename(path), owner):
                continue
            if is_dead(owner):
                storage.remove_if(path, generation)
            else:
                seen[path] = generation, owner
        if not seen:
            return None
        hosts = sorted({str(owner.get("host")) for _, owner in seen.values()})
        logging.info("%s has a lease (%s); waiting to see whether its owner lives", self._root, ", ".join(hosts))
        deadline = time.monotonic() + STALE_S
        while seen and time.monotonic() < deadline:
            time.sleep(min(2.0, STALE_S / 5))
            for path, (generation, owner) in [*seen.items()]:
                now, _ = self._read(path)
                if now is None:  # it was given back
                    del seen[path]
                elif now != generation:
                    return owner
        for _ in seen:
            logging.info("%s: the owner of the lease did not renew it and counts as dead", self._root)
        # A lease that was written just now belongs to a living owner, or was taken over.
        return self._living([path for path, (generation, _) in seen.items() if not storage.remove_if(path, generation)])

    def _renew(self) -> None:
        generation = None
        while not self._ended.wait(RENEW_S):
            try:
                # The condition protects a lease that another process wrote meanwhile.
                if generation is None or not storage.write_if(self._path, generation, self._content()):
                    _, content = self._read(self._path)
                    if parse(content).get("token") != self._owner["token"]:
                        self._end()
                generation = storage.generation(self._path)
            except (UserError, OSError) as error:  # the work itself will fail and report the cause
                logging.warning("%s: the lease could not be renewed (%s)", self._root, str(error).splitlines()[0])

    def _end(self) -> None:
        print(
            f"redundancy: error: another process has taken over {self._root}, since this one could not renew its lease in "
            "time. What was finished is kept; give the same command again when that one has ended.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)


def is_held(root: str, token: str, part: Part | None = None) -> bool:
    """Whether the workdir, as this process sees it, has the lease with this token."""
    lock, lease = _names(part)
    for name in (lock, lease) if storage.is_local(root) else (lease,):
        with contextlib.suppress(FileNotFoundError, StorageError):
            if parse(storage.read_bytes(storage.join(root, name))).get("token") == token:
                return True
    return False
