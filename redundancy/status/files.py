"""Reads the files of a workdir without a lease. Damage is recorded, not raised."""

import json
from collections.abc import Callable, Iterable
from typing import Any

from redundancy import storage
from redundancy.runtime.errors import DataError
from redundancy.storage.listing import File, list_files
from redundancy.workdir import lease, read_manifest
from redundancy.workdir.lease import STALE_S
from redundancy.workdir.owner import is_dead, is_here


class Files:
    """The files in one listing of a workdir, and the damage found in them.

    Attributes:
      files: files by path relative to the workdir.
      now: time of the listing, in seconds since 1970.
      damaged: a line for each file that cannot be used.
    """

    def __init__(self, root: str, now: float):
        self.root, self.now, self.files = root, now, list_files(root)
        self.damaged: list[str] = []

    def path(self, name: str) -> str:
        return storage.join(self.root, name)

    def below(self, folder: str) -> dict[str, File]:
        """All files below a folder, by path relative to it, without hidden ones."""
        return {
            name.removeprefix(f"{folder}/"): file
            for name, file in self.files.items()
            if name.startswith(f"{folder}/") and "/." not in name
        }

    def read(self, name: str, read: Callable[[str], Any]) -> Any:
        """Calls `read` with the path of a file. Returns None if the file is missing or damaged; damage is recorded.

        Raises:
          StorageError: the storage cannot be reached.
        """
        if name not in self.files:
            return None
        try:
            return read(self.path(name))
        except FileNotFoundError:  # the file was removed after the listing
            return None
        except (DataError, OSError) as error:
            self.damaged.append(str(error))
            return None

    def manifest(self, folder: str, **fields: type) -> dict[str, Any] | None:
        return self.read(f"{folder}/manifest.json", lambda _: read_manifest(self.path(folder), **fields))

    def need(self, folder: str, names: Iterable[str]) -> None:
        """Records as damage those files of a folder's manifest that are missing or empty."""
        for name in names:
            file = self.files.get(f"{folder}/{name}")
            if file is None and not self.is_there(f"{folder}/{name}"):
                self.damaged.append(f"{self.path(folder)}/{name} is missing, but the manifest beside it names it.")
            elif file is not None and not file.size:
                self.damaged.append(f"{self.path(folder)}/{name} is empty, but the manifest beside it names it.")

    def is_there(self, name: str) -> bool:
        """Whether a file exists, including files written after the listing."""
        return name in self.files or storage.exists(self.path(name))


def at_work(files: Files) -> list[dict[str, Any]]:
    """The owners of the workdir; if there are none, those that ended without releasing it.

    Returns:
      for each owner: command, pid, host, since; state "working", "gone" or, for a lock of another machine, "unknown"; and
      silent_s, the seconds since it last renewed its lease, None if the system shows that it is alive.
    """
    owners = []
    for name in sorted(filter(lease.is_name, files.files)):
        try:
            owner = json.loads(storage.read_bytes(files.path(name)))
        except (FileNotFoundError, ValueError):  # it was just released, or is the shared lock of parts of a sweep
            continue
        if not isinstance(owner, dict):
            continue
        state, silent = "working", None
        if name.startswith(".lease"):
            renewed = owner.get("renewed")
            silent = files.now - max(files.files[name].time, renewed if isinstance(renewed, int | float) else 0.0)
            state = "gone" if silent > STALE_S else "working"
        elif not is_here(owner):
            silent = files.now - max(file.time for file in files.files.values())
            state = "unknown"
        if is_dead(owner):
            state = "gone"
        shown = {key: owner.get(key) for key in ("command", "pid", "since")}
        host = str(owner.get("host") or "?").split(" ")[0]
        owners.append({**shown, "host": host, "state": state, "silent_s": silent and round(max(silent, 0.0), 1)})
    alive = [owner for owner in owners if owner["state"] != "gone"]
    return alive or owners
