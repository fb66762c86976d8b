"""A bar on a terminal, plain lines in a log; both show the rate and the time left."""

import contextlib
import logging
import os
import pty
import subprocess
import sys

from redundancy.runtime import progress as progress_lib
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
    monkeypatch.setattr(progress_lib.time, "monotonic", lambda: now[0])
    with Progress("link", 100, "images") as progress:
        for seconds, count in ((600, 10), (1, 2), (9, 18), (10, 20), (25, 50)):
            now[0] += seconds
            progress.advance(count)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "link: 10/100 images, 0.01667/s, 1:30:00 left"
    assert lines[1] == "link: 30/100 images, 2/s, 0:35 left"
    assert lines[-1] == "link: 100/100 images, 0.155/s, in 10:45"
