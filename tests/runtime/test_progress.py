"""A bar on a terminal, plain lines in a log; both show the rate and the time left."""

import contextlib
import logging
import os
import pty
import subprocess
import sys

import pytest

from redundancy.runtime import compiling, progress
from redundancy.runtime.progress import Progress

PROGRAM = """
import time
from redundancy.runtime.progress import Progress
with Progress("embed", 5, "images") as progress:
    for _ in range(5):
        time.sleep(0.15)
        progress.advance(1, "loss 0.5")
"""


def test_a_bar_on_a_terminal_without_a_size():
    ours, theirs = pty.openpty()
    child = subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # Linux ends a terminal whose other side is gone with EIO
        while data := os.read(ours, 1024):
            shown += data
    os.close(ours)
    assert child.wait() == 0
    text = shown.decode()
    assert "embed:" in text
    assert "5/5" in text
    assert "images/s" in text
    assert "loss 0.5" in text


def test_lines_in_a_log(caplog):
    caplog.set_level(logging.INFO, logger="absl")
    with Progress("embed", 10, "images", done=4, every_s=0) as progress:
        for _ in range(6):
            progress.advance()
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("embed: 5/10 images, ")
    assert lines[0].endswith(" left")
    assert lines[-1].startswith("embed: 10/10 images")


def test_the_time_left_does_not_count_what_comes_before_the_first_unit(caplog, monkeypatch):
    caplog.set_level(logging.INFO, logger="absl")
    now = [0.0]
    monkeypatch.setattr(compiling.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(compiling, "_spans", [])
    with Progress("link", 100, "images") as progress:
        for seconds, count in ((600, 10), (1, 2), (9, 18), (10, 20), (25, 50)):
            now[0] += seconds
            progress.advance(count)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "link: 10/100 images, 0.01667/s, 1:30:00 left"
    assert lines[1] == "link: 30/100 images, 2/s, 0:35 left"
    assert lines[-1] == "link: 100/100 images, 0.155/s, in 10:45"


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test moves: clock(seconds) -> the time after them."""
    now = [1000.0]

    def move(seconds=0.0):
        now[0] += seconds
        return now[0]

    for module in (compiling, progress):
        monkeypatch.setattr(module.time, "monotonic", move)
    monkeypatch.setattr(compiling, "_spans", [])
    return move


def said(caplog):
    lines = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return lines


def test_what_compiles_is_said_and_not_counted(clock, caplog):
    caplog.set_level(logging.INFO, logger="absl")
    with Progress("link end", 1000, "images") as shown:
        clock(28.0)
        compiling.add(28.0)
        clock(1.0)
        shown.advance(100)
        assert said(caplog) == [
            "link end: compiling, 28 s",
            "link end: 100/1000 images, 100/s, 0:09 left",
        ]
        clock(0.4)
        compiling.add(0.4)  # too short to be mentioned
        clock(9.0)
        shown.advance(900)
        assert said(caplog) == []
    assert said(caplog) == ["link end: 1000/1000 images, 100/s, in 0:38"]


def test_the_rate_is_that_of_the_last_half_minute(clock, caplog):
    caplog.set_level(logging.INFO, logger="absl")
    with Progress("train", 10_000, "steps") as shown:
        for _ in range(100):  # 1 a second
            clock(1.0)
            shown.advance(1)
        assert said(caplog)[-1] == "train: 100/10000 steps, 1/s, 2:45:00 left"
        for _ in range(40):  # 100 a second
            clock(1.0)
            shown.advance(100)
        assert said(caplog)[-1] == "train: 4100/10000 steps, 100/s, 0:59 left"
    assert said(caplog) == ["train: 4100/10000 steps, 29.29/s, in 2:20"]


def test_nothing_but_compiling_has_no_rate(clock, caplog):
    caplog.set_level(logging.INFO, logger="absl")
    with Progress("train", 10, "steps") as shown:
        clock(12.0)
        compiling.add(20.0)  # had begun before
        shown.advance(1)
        assert said(caplog) == ["train: compiling, 12 s", "train: 1/10 steps, 0/s, ? left"]


def test_spans_of_several_threads_count_once(clock):
    clock(10.0)
    compiling.add(4.0)  # 6 to 10
    clock(2.0)
    compiling.add(12.0)  # 0 to 12
    clock(5.0)
    compiling.add(1.0)
    assert compiling.seconds_since(1000.0) == 13.0
    assert compiling.seconds_since(1011.0) == 2.0


def test_jax_and_numba_tell_when_they_compile():
    import jax
    import numba

    compiling.watch()
    begun = compiling.time.monotonic()
    jax.jit(lambda x: x * 3 + 0.123)(1.0)
    by_jax = compiling.seconds_since(begun)
    assert 0 < by_jax <= compiling.time.monotonic() - begun
    begun = compiling.time.monotonic()
    numba.njit(lambda x: x + 1)(1)
    assert 0 < compiling.seconds_since(begun) <= compiling.time.monotonic() - begun
