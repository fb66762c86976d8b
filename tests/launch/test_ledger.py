"""Who holds a run: one process at a time, and the next one as soon as that is known to be dead. The histories test the rest."""

import os
import socket
import subprocess
import sys
import types

import pytest

from launch.backends import CloudError
from launch.backends.local import LocalFiles
from launch.ledger import LEASE_S, Ledger, ended
from launch.records import Attempt, Record
from redundancy.runtime.errors import WorkdirError

RECORD = Record("r-0", (Attempt(1, "z", 5.0, outcome="done", ended=9.0),), end=(0, "fine"))


@pytest.fixture
def clock():
    made = types.SimpleNamespace(now=1e6)
    made.time = lambda: made.now
    made.sleep = lambda seconds: setattr(made, "now", made.now + seconds)
    return made


@pytest.fixture
def files(tmp_path):
    return LocalFiles(str(tmp_path))


def taken(files, clock, **options):
    ledger = Ledger(files, "r", clock, **options)
    if not ledger.load():
        ledger.records = [RECORD]
    ledger.take()
    ledger.save()
    return ledger


def test_the_record_is_read_as_it_was_written(files, clock):
    taken(files, clock)
    other = Ledger(files, "r", clock)
    assert other.load()
    assert other.records == [RECORD]


def test_a_holder_that_releases_or_falls_silent_is_followed(files, clock):
    first = taken(files, clock)
    for _ in range(10):  # it lives, though it has nothing to save
        clock.now += LEASE_S / 4
        first.renew()
    with pytest.raises(
        WorkdirError, match=rf"process {os.getpid()}, since .*, last saved \d+ s ago.*elsewhere after \d+ s"
    ):
        taken(files, clock)
    first.release()
    second = taken(files, clock)
    clock.now += LEASE_S
    taken(files, clock)
    with pytest.raises(WorkdirError, match="has taken over the run"):
        second.save()


def test_a_write_whose_answer_was_lost_is_the_holders_own(files, clock):
    ledger, write = taken(files, clock), files.write

    def lost(*arguments):
        files.write = write
        write(*arguments)
        raise CloudError("unavailable", "no answer")

    files.write = lost
    ledger.save()
    ledger.save()


def test_a_process_of_this_machine_is_known_to_have_ended():
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    here = {"machine": socket.gethostname()}
    assert ended({**here, "pid": done.pid})
    assert not ended({**here, "pid": os.getpid()})
    assert not ended({**here, "pid": 1})  # of another user, perhaps
    assert not ended({"machine": "another", "pid": done.pid})


def test_what_is_no_record_is_left_alone(files, clock):
    files.write("r/run.json", b"{}")
    with pytest.raises(WorkdirError, match=r"run\.json is no record of a run \(KeyError"):
        Ledger(files, "r", clock).load()
