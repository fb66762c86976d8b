"""The owner of a workdir, as recorded in a lock or a lease, and checks whether that process is still alive."""

import contextlib
import datetime
import json
import os
import sys
import uuid
from collections.abc import Mapping
from typing import Any

from redundancy.runtime import machine
from redundancy.runtime.errors import WorkdirError
from redundancy.workdir.parts import Part


def this(part: Part | None) -> dict[str, Any]:
    """A record of this process as the owner of a part of a sweep or, if `part` is None, of the whole workdir."""
    pid = os.getpid()
    command = " ".join(sys.argv[1:2])
    return {
        "token": uuid.uuid4().hex,
        "host": machine.identity(),
        "pid": pid,
        "started": machine.started(pid),
        "command": command if part is None else f"{command} --part={part}",
        "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def is_here(owner: Mapping[str, Any]) -> bool:
    """Whether the owner is or was a process of this machine since its last boot."""
    return owner.get("host") == machine.identity()


def is_dead(owner: Mapping[str, Any]) -> bool:
    """Whether the owner was a process of this machine and has ended; False if unknown."""
    if not is_here(owner) or not isinstance(owner.get("pid"), int) or not os.path.isdir("/proc/self"):
        return False
    return machine.has_ended(owner["pid"], owner.get("started"))


def in_use(root: str, owner: Mapping[str, Any]) -> WorkdirError:
    host = str(owner.get("host", "another host")).split(" ")[0]
    return WorkdirError(
        f'{root} is in use: "redundancy {owner.get("command", "")}" runs there as process {owner.get("pid", "?")} on {host} '
        f"since {owner.get('since', '?')}. Wait until it has ended, or end it (kill {owner.get('pid', 'PID')}), or choose "
        "another --workdir."
    )


def parse(data: bytes) -> dict[str, Any]:
    """The owner recorded in a file's content; {} if there is none."""
    with contextlib.suppress(ValueError):
        if isinstance(found := json.loads(data), dict):
            return found
    return {}
