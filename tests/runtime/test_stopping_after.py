"""--stop-after: a process ends before a time is over, saved where it can, with the exit code of a preemption."""

import subprocess
import sys
import time

import pytest

PROGRAM = """
import contextlib, sys, time
from redundancy.runtime import preemption
from redundancy.runtime.errors import Preempted

def waits(look):
    began = time.monotonic()
    while time.monotonic() < began + 60:
        time.sleep(0.01)
        if look and preemption.asked():
            print("saved", flush=True)
            raise Preempted

print("begins", flush=True)
kind, seconds = sys.argv[1], float(sys.argv[2])
with preemption.handling_sigterm(), preemption.before_end(lambda: print("given back", flush=True)):
    try:
        with preemption.stopping_after(seconds):
            if kind == "none":
                time.sleep(0.1)
            elif kind == "stage":
                waits(False)
            else:
                with preemption.deferred():
                    waits(kind == "training")
    except Preempted as error:
        print(preemption.message(), file=sys.stderr)
        raise SystemExit(error.code)
    time.sleep(seconds if kind == "none" else 0)
"""
SECONDS = 4.0


@pytest.mark.parametrize(
    ("kind", "code", "said"),
    [
        ("training", 75, ["begins", "saved"]),
        ("stage", 75, ["begins", "given back"]),
        ("stuck", 75, ["begins", "given back"]),  # as in a compilation
        ("none", 0, ["begins"]),
    ],
)
def test_it_ends_in_time(kind, code, said, repo, child_env):
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind, str(SECONDS)],
        cwd=repo,
        env=child_env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout.split("\n")[:-1]) == (code, said), done.stderr
    assert time.monotonic() - began < SECONDS + 15  # with what Python's start and exit take on a busy machine
    assert ("ended as asked (--stop-after); what was computed is saved" in done.stderr) == (code == 75)
