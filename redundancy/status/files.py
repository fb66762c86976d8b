"""Reads the files of a workdir without a lease. Records damage instead of raising errors."""

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
    """The files that one listing of a workdir shows, and damage found in them.

    Attributes:
      files: by their names relative to the workdir.
      now: when they were listed, in seconds since 1970.
      damaged: one line for each file that cannot be used.
    """

    def __init__(self, root: str, now: float):
        self.root, self.now, self.files = root, now, list_files(root)
        self.damaged: list[str] = []

    def path(self, name: str) -> str:
        return storage.join(self.root, name)

    def below(self, folder: str) -> dict[str, File]:
        """All files below a folder by their names relative to it, without hidden ones."""
        return {
            name.removeprefix(f"{folder}/"): file
            for name, file in self.files.items()
            if name.startswith(f"{folder}/") and "/." not in name
        }

    def read(self, name: str, read: Callable[[str], Any]) -> Any:
        """Calls `read` with the path of a file; None if the file is missing, or damaged, which is recorded.

        Raises:
          StorageError: the storage cannot be reached.
        """
        if name not in self.files:
            return None
        try:
            return read(self.path(name))
        except FileNotFoundError:  # removed since the listing
            return None
        except (DataError, OSError) as error:
            self.damaged.append(str(error))
            return None

    def manifest(self, folder: str, **fields: type) -> dict[str, Any] | None:
        return self.read(f"{folder}/manifest.json", lambda _: read_manifest(self.path(folder), **fields))

    def need(self, folder: str, names: Iterable[str]) -> None:
        """Records which of the files in a folder's manifest are missing or empty."""
        for name in names:
            file = self.files.get(f"{folder}/{name}")
            if file is None and not self.is_there(f"{folder}/{name}"):
                self.damaged.append(f"{self.path(folder)}/{name} is missing, but the manifest beside it names it.")
            elif file is not None and not file.size:
                self.damaged.append(f"{self.path(folder)}/{name} is empty, but the manifest beside it names it.")

    def is_there(self, name: str) -> bool:
        """Whether a file exists, even if it was written after the listing."""
        return name in self.files or storage.exists(self.path(name))


def at_work(files: Files) -> list[dict[str, Any]]:
    """The owners of the workdir; if there are none, those that ended without giving it back.

    Returns:
      for each owner: command, pid, host, since; state "working", "gone" or, for a lock that another machine holds,
      "unknown"; and silent_s, the seconds since it last renewed its lease, None if the system shows that it lives.
    """
    owners = []
    for name in sorted(filter(lease.is_name, files.files)):
        try:
            owner = json.loads(storage.read_bytes(files.path(name)))
        except (FileNotFoundError, ValueError):  # given back meanwhile, or a lock that parts of a sweep share
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
