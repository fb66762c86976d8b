"""Which errors of storage are tried again, and for how long."""

import pytest

from redundancy import storage
from redundancy.runtime.errors import ConfigError, DataError, StorageError
from redundancy.storage import retries


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (OSError(113, "No route to host"), True),
        (OSError(28, "No space left on device"), False),
        (FileNotFoundError(2, "No such file"), False),
        (PermissionError(13, "Permission denied"), False),
        (OSError('{"error": {"code": 503, "message": "Backend Error"}}'), True),
        (OSError("Forbidden: b/x/o\nno access"), False),
        (ValueError("ABORTED: All 32 retry attempts failed: injected [http_response_code='503']"), True),
        (ValueError("UNAVAILABLE: CURL error Could not connect to server"), True),
        (ValueError("DEADLINE_EXCEEDED: Timeout was reached"), True),
        (ValueError("NOT_FOUND: Error opening zarr driver: metadata at gs://b/x does not exist"), False),
        (ValueError("DATA_LOSS: Error opening"), False),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 5030 bytes"), False),
        (KeyError("503"), False),
        (StorageError("tried for long"), False),
        (caused(StorageError("tried for long"), ConnectionResetError()), False),
        (DataError("UNAVAILABLE"), False),
        (KeyboardInterrupt(), False),
    ],
    ids=repr,
)
def test_which_errors_are_temporary(error, expected):
    assert storage.is_transient(error) == expected
    if isinstance(error, Exception) and not error.__cause__:
        for outer in (RuntimeError("save failed"), DataError("cannot be read")):
            outer.__cause__ = error
            assert storage.is_transient(outer) == expected
            outer.__cause__, outer.__context__, outer.__suppress_context__ = None, error, False
            assert storage.is_transient(outer) == expected
            outer.__suppress_context__ = True
            assert not storage.is_transient(outer)


def test_errors_of_google_s_libraries():
    pytest.importorskip("gcsfs")
    import aiohttp
    import gcsfs.retry
    import google.auth.exceptions
    import requests
    from google.api_core import exceptions

    http = gcsfs.retry.HttpError
    unsigned = {"code": 401, "message": "Invalid Credentials"}
    lost, revoked = google.auth.exceptions.TransportError("lost"), google.auth.exceptions.RefreshError("invalid_grant")
    for error, expected in (
        (http({"code": 503}), True),
        (http({"code": "429"}), True),
        (http({"code": 408}), True),
        (http({"code": 400}), False),
        (http({"code": 416}), False),
        (http(unsigned), True),
        (http({"code": 401, "message": "Anonymous caller does not have storage.objects.get access"}), False),
        (caused(http(unsigned), caused(google.auth.exceptions.RefreshError("x"), lost)), True),
        (caused(http(unsigned), revoked), False),
        (gcsfs.retry.ChecksumError("x"), True),
        (requests.exceptions.ProxyError(), True),
        (aiohttp.ServerDisconnectedError(), True),
        (aiohttp.ClientPayloadError("x"), True),
        (aiohttp.InvalidURL("x"), False),
        (exceptions.ServiceUnavailable("x"), True),
        (exceptions.RetryError("Timeout of 120.0s exceeded", None), True),
        (exceptions.Forbidden("x"), False),
        (google.auth.exceptions.DefaultCredentialsError("x"), False),
    ):
        assert storage.is_transient(error) == expected, repr(error)


def test_retrying_returns_or_raises_as_the_operation_does(monkeypatch):
    monkeypatch.setattr(retries, "_FIRST", 0.001)
    calls = []

    def third_time():
        calls.append(0)
        if len(calls) < 3:
            raise ConnectionResetError
        return "done"

    assert storage.retrying("it", third_time) == "done"

    def wrong():
        calls.append(0)
        raise KeyError("x")

    calls.clear()
    with pytest.raises(KeyError):
        storage.retrying("it", wrong)
    assert len(calls) == 1
    monkeypatch.setenv("REDUNDANCY_STORAGE_RETRY_S", "soon")
    with pytest.raises(ConfigError, match="REDUNDANCY_STORAGE_RETRY_S is 'soon'; wanted seconds, such as 300"):
        storage.retrying("it", third_time)
