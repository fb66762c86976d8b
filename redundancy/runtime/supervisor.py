"""Runs the program as a child process. If the child cannot report how it ended, the supervisor does so in one line.

This is needed because JAX's runtime aborts the processes of a run without an error message if one of them is lost.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys

LOST = 76  # exit code for "another process of the run was lost"
_PARENT = "REDUNDANCY_SUPERVISOR"


def is_child() -> bool:
    return _PARENT in os.environ


def follow_parent() -> None:
    """To be called in the child: on Linux, the system then kills it when its parent ends."""
    parent = int(os.environ.pop(_PARENT))
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG of linux/prctl.h
    if os.getppid() != parent:
        os._exit(1)


def run(argv: list[str]) -> int:
    """Runs `python -m redundancy` with the arguments argv[1:], forwards SIGTERM and SIGINT, returns the exit code."""
    child = subprocess.Popen(
        [sys.executable, "-m", "redundancy", *argv[1:]],
        env={**os.environ, _PARENT: str(os.getpid())},
        start_new_session=True,  # otherwise the child would receive signals to the group twice
    )
    forwarded = set()

    def forward(signum, frame):
        if signum not in forwarded:
            forwarded.add(signum)
            child.send_signal(signum)

    before = {signum: signal.signal(signum, forward) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        code = child.wait()
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    if code >= 0:
        return code
    name = signal.Signals(-code).name
    if -code == signal.SIGABRT:
        what = (
            "another process of this run was lost (killed, out of memory, or its host is gone; see its own log), so this one "
            "was ended, too"
        )
    else:
        what = f"this process was ended by {name}" + (", often because memory ran out" if name == "SIGKILL" else "")
    print(
        f"redundancy: error: {what}. What was finished is kept, trainings up to their last checkpoint: give the same "
        "command on every host again.",
        file=sys.stderr,
    )
    return LOST if -code == signal.SIGABRT else 128 - code
