"""Who holds a workdir: what a lock or a lease says of its owner, and whether that process still lives."""

import contextlib
import datetime
import json
import os
import pathlib
import socket
import sys
import uuid
from collections.abc import Mapping
from typing import Any

from redundancy.experiment.parts import Part
from redundancy.runtime.errors import WorkdirError


def _host() -> str:
    """This machine since it was started, and the set of process numbers that this process sees, as in a container."""
    parts = [socket.gethostname()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with contextlib.suppress(OSError):
            parts.append(os.readlink(path) if os.path.islink(path) else pathlib.Path(path).read_text().strip())
    return " ".join(parts)


def _started(pid: int) -> str | None:
    """When the process of this machine started, in the system's ticks; None if there is none or the system does not say."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return None


def this(part: Part | None) -> dict[str, Any]:
    """This process as an owner; `part` of a sweep, None for the whole workdir."""
    pid = os.getpid()
    command = " ".join(sys.argv[1:2])
    return {
        "token": uuid.uuid4().hex,
        "host": _host(),
        "pid": pid,
        "started": _started(pid),
        "command": command if part is None else f"{command} --part={part}",
        "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def is_here(owner: Mapping[str, Any]) -> bool:
    """Whether the owner is or was a process of this machine since it was started."""
    return owner.get("host") == _host()


def is_dead(owner: Mapping[str, Any]) -> bool:
    """Whether the owner was a process of this machine and is no more; False if that is not known."""
    if not is_here(owner) or not isinstance(owner.get("pid"), int) or not os.path.isdir("/proc/self"):
        return False
    return _started(owner["pid"]) != owner.get("started")


def in_use(root: str, owner: Mapping[str, Any]) -> WorkdirError:
    host = str(owner.get("host", "another host")).split(" ")[0]
    return WorkdirError(
        f'{root} is in use: "redundancy {owner.get("command", "")}" runs there as process {owner.get("pid", "?")} on {host} '
        f"since {owner.get('since', '?')}. Wait until it has ended, or end it (kill {owner.get('pid', 'PID')}), or choose "
        "another --workdir."
    )


def parse(data: bytes) -> dict[str, Any]:
    """The owner that a file names; {} if it names none."""
    with contextlib.suppress(ValueError):
        if isinstance(found := json.loads(data), dict):
            return found
    return {}
