"""How long a service is tried that was never reached, and one that was."""

import threading

import pytest

from redundancy.runtime.errors import StorageError
from redundancy.storage import retries


@pytest.fixture
def tried_for(monkeypatch):
    """Seconds for which `retrying` tries an operation that never succeeds, by a clock that only its pauses move."""
    monkeypatch.setattr(retries.Patience, "_reached", threading.Event())
    monkeypatch.delenv("REDUNDANCY_STORAGE_RETRY_S", raising=False)
    clock = [0.0]
    monkeypatch.setattr(retries.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(retries.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))

    def try_for(error, what="gs://bucket/x"):
        def operation():
            raise error

        start = clock[0]
        with pytest.raises(StorageError, match="Check the network"):
            retries.retrying(what, operation)
        return clock[0] - start

    return try_for


class Busy(Exception):
    """As gcsfs reports an answer of the service."""

    __module__ = "gcsfs.retry"
    code = 503


def test_without_network_the_first_contact_fails_soon(tried_for, monkeypatch):
    refused = ConnectionRefusedError("Connection refused")
    assert 5 <= tried_for(refused) <= 12
    monkeypatch.setenv("REDUNDANCY_STORAGE_RETRY_S", "120")
    assert 110 <= tried_for(refused) <= 130


@pytest.mark.parametrize("answer", [lambda: b"", FileNotFoundError("gs://bucket/y")], ids=["bytes", "no such object"])
def test_a_service_that_was_reached_is_given_time(tried_for, answer):
    if isinstance(answer, Exception):
        with pytest.raises(FileNotFoundError):
            retries.retrying("gs://bucket/y", lambda: (_ for _ in ()).throw(answer))
    else:
        retries.retrying("gs://bucket/y", answer)
    assert 250 <= tried_for(ConnectionRefusedError("Connection refused")) <= 320


def test_a_busy_service_is_there(tried_for):
    assert 250 <= tried_for(Busy("503")) <= 320
