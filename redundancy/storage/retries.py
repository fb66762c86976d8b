"""Retries of operations on remote storage: which errors may be temporary, how long to retry, and what to log meanwhile.

Recognises the errors of gcsfs, aiohttp, requests, google-auth and TensorStore by name and text, without importing them.
"""

import errno
import os
import random
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from absl import logging

from redundancy.runtime.errors import ConfigError, StorageError, UserError

T = TypeVar("T")

_FIRST, _LONGEST = 0.25, 10.0  # seconds before the second try, and longest wait before a later one
_RETRY_S = "REDUNDANCY_STORAGE_RETRY_S"
_LINE_EVERY = 15.0  # seconds between lines in the log
_UNREACHED = 10.0  # seconds to retry while this process has reached no service yet: there is probably no network
_UNAUTHORISED = 30.0  # seconds to retry after HTTP 401: the token may just have expired

_TRANSIENT_ERRNOS = {
    errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN,
    errno.ENETRESET, errno.ENETUNREACH, errno.EPIPE, errno.ETIMEDOUT,
}  # fmt: skip
# Error classes, including their subclasses, whose cause is the network and not the request.
_TRANSIENT_TYPES = {
    "aiohttp.client_exceptions.ClientConnectionError",
    "aiohttp.client_exceptions.ClientPayloadError",
    "gcsfs.retry.ChecksumError",
    "google.api_core.exceptions.RetryError",
    "google.auth.exceptions.TransportError",
    "requests.exceptions.ChunkedEncodingError",
    "requests.exceptions.ConnectionError",
    "requests.exceptions.ContentDecodingError",
    "requests.exceptions.Timeout",
}
_LASTING_TYPES = {
    "aiohttp.client_exceptions.ClientConnectorCertificateError",
    "jax.errors.JaxRuntimeError",  # out of memory, or another process of this run failed
    "jaxlib._jax.JaxRuntimeError",
    "jaxlib.xla_extension.XlaRuntimeError",
}
# Errors whose attribute `code` or `status` is an HTTP status.
_HTTP_TYPES = ("aiohttp.", "gcsfs.", "google.api_core.", "urllib.error.")
# Status texts of TensorStore and of its curl, and of answers to a batch of requests.
_TRANSIENT_TEXT = re.compile(
    r"\b(UNAVAILABLE|DEADLINE_EXCEEDED)\b|\ball \d+ retry attempts failed"
    r"|\bHTTP (response |status |code:? ?)*(408|429|50[0234])\b|\"code\": ?(408|429|50[0234])\b"
    r"|connection (refused|reset|timed out|aborted)|broken pipe|network is unreachable|no route to host"
    r"|could ?n.t (connect|resolve)|could not (connect|resolve)|name resolution|temporarily unavailable",
    re.IGNORECASE,
)


def _number(name: str, default: float) -> float:
    text = os.environ.get(name, "")
    try:
        value = float(text or default)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise ConfigError(f"The environment variable {name} is {text!r}; wanted seconds, such as {default:g}.")
    return value


def patience() -> float:
    """Seconds for which operations are retried, from REDUNDANCY_STORAGE_RETRY_S; fewer before the first contact."""
    return _number(_RETRY_S, 300.0)


def silence() -> float:
    """Seconds without any byte after which a connection counts as lost, from REDUNDANCY_STORAGE_TIMEOUT_S."""
    return max(_number("REDUNDANCY_STORAGE_TIMEOUT_S", 60.0), 0.1)


def _types(error: BaseException) -> set[str]:
    return {f"{each.__module__}.{each.__qualname__}" for each in type(error).__mro__}


def status_of(error: BaseException) -> int | None:
    """The HTTP status in an error of a client library; None if it has none."""
    if not any(name.startswith(_HTTP_TYPES) for name in _types(error)):
        return None
    for found in (getattr(error, "code", None), getattr(error, "status", None)):
        if isinstance(found, int | str) and str(int(found) if isinstance(found, int) else found).isdigit():
            return int(found)
    return None


def _verdict(error: BaseException) -> bool | None:
    """Whether a retry may help; None if that depends on the error's cause."""
    if isinstance(error, StorageError) or not isinstance(error, Exception):
        return False
    types = _types(error)
    if isinstance(error, ssl.SSLCertVerificationError) or types & _LASTING_TYPES:
        return False
    status = status_of(error)
    if status == 401:  # gcsfs also reports 401 if it could not fetch a token
        return None if error.__cause__ is not None else "Invalid Credentials" in str(error)
    if status:
        return status in (408, 429) or (status >= 500 and status != 501)
    if types & _TRANSIENT_TYPES or isinstance(error, TimeoutError | ConnectionError | ssl.SSLError | socket.gaierror):
        return True
    if "google.auth.exceptions.GoogleAuthError" in types:
        return True if getattr(error, "retryable", False) else None
    if isinstance(error, OSError):
        if isinstance(
            error, FileNotFoundError | FileExistsError | PermissionError | IsADirectoryError | NotADirectoryError
        ):
            return False
        if error.errno is not None:
            return error.errno in _TRANSIENT_ERRNOS
    if isinstance(error, UserError):
        return None
    return True if _TRANSIENT_TEXT.search(str(error)) else None


def is_transient(error: BaseException) -> bool:
    """Whether the operation that raised `error` may succeed if it is retried.

    That is so for a busy or broken service (HTTP 408, 429, 5xx), timeouts, lost or refused connections, and failed name
    resolution. If the error itself is inconclusive, its causes decide.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if (verdict := _verdict(error)) is not None:
            return verdict
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def _bucket(what: str) -> str:
    return found[1] if (found := re.search(r"\bgs://([^/]*)", what)) else "BUCKET"


def no_bucket(what: str) -> StorageError:
    name = _bucket(what)
    return StorageError(
        f"{what}: there is no bucket {name!r}. Create it (gcloud storage buckets create gs://{name}), or correct the path."
    )


def refusal(what: str, error: BaseException) -> StorageError | None:
    """The StorageError to raise if Google's service refused the request; None for other errors."""
    if "gs://" not in what:
        return None
    status, text = status_of(error), one_line(error)
    auth = "google.auth.exceptions.GoogleAuthError" in _types(error)
    if status == 401 or auth or re.search(r"\bUNAUTHENTICATED\b", text):
        wanted = (
            'The credentials are missing or not accepted. Run "gcloud auth application-default login", or set the '
            "environment variable GOOGLE_APPLICATION_CREDENTIALS to a key file."
        )
    elif status == 403 or re.match("Forbidden", text) or re.search(r"\bPERMISSION_DENIED\b", text):
        wanted = (
            f"The account may not do that: it needs the role Storage Object Admin (roles/storage.objectAdmin) on bucket "
            f"{_bucket(what)!r}."
        )
    elif status == 400 or re.match("Bad Request", text):
        wanted = "Wanted: gs://BUCKET/PATH with the name of an existing bucket."
    else:
        return None
    return StorageError(f"{what}: refused ({text}). {wanted}")


def one_line(error: BaseException) -> str:
    """An error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines)[:300].strip(" ,")
    if (status := status_of(error)) and str(status) in text:
        return f"HTTP {status} {text.replace(str(status), '').strip(' ,')}".strip()
    name = type(error).__name__
    if isinstance(error, TimeoutError) and not text:
        return f"no answer ({name})"
    return text if text.startswith(("Forbidden", "Bad Request")) else f"{name}: {text}" if text else name


class Patience:
    """Decides when to retry a failing operation, and when to give up.

    Gives up sooner as long as no operation of this process has received an answer: there is probably no network at all.
    """

    _lock = threading.Lock()
    _last_line = -1e9  # shared by all operations, since a network failure affects all of them
    _reached = threading.Event()  # set once any operation of this process has received an answer

    def __init__(self, what: str):
        """`what` is the path, or a description of the operation, for messages."""
        self._what, self._since, self.failures = what, 0.0, 0
        self._patience = patience()

    def pause(self, error: Exception) -> float:
        """Seconds to wait before the next try.

        Raises:
          StorageError: the operation has failed for too long, or the service refused it.
          error: if a retry would not help.
        """
        if isinstance(error, FileNotFoundError) or status_of(error) is not None:
            Patience._reached.set()
        if not is_transient(error):
            raise refusal(self._what, error) or error
        now = time.monotonic()
        if not self.failures:
            self._since = now
        self.failures += 1
        limit = self._limit(error)
        tried = now - self._since
        if tried >= limit:
            if status_of(error) == 401:
                raise refusal(self._what, error) from error
            raise StorageError(
                f"{self._what}: {one_line(error)}. Tried {self.failures} times in {tried:.0f} s. Check the network, the "
                "credentials and the service's quota, then give the same command again: it continues where it "
                "stopped. REDUNDANCY_STORAGE_RETRY_S sets for how many seconds it tries."
            ) from error
        self._say(error, tried, limit)
        longest = min(_FIRST * 2 ** min(self.failures - 1, 10), _LONGEST)
        return min(random.uniform(longest / 2, longest), max(limit - tried, 0.05))

    def _limit(self, error: Exception) -> float:
        """Seconds for which an operation that fails with `error` is retried."""
        if status_of(error) == 401:
            return min(self._patience, _UNAUTHORISED)
        # A user who has set the variable expects the first contact to take as long.
        if not Patience._reached.is_set() and _RETRY_S not in os.environ:
            return min(self._patience, _UNREACHED)
        return self._patience

    def _say(self, error: Exception, tried: float, limit: float) -> None:
        with self._lock:
            if time.monotonic() - Patience._last_line < _LINE_EVERY:
                return
            Patience._last_line = time.monotonic()
        since = f" for {tried:.0f} s" if tried >= 1 else ""
        logging.warning(
            "%s: failing%s (%s); trying again for %.0f s", self._what, since, one_line(error), limit - tried
        )


def network_is_there() -> None:
    """Gives the first contact the full time, too, because another machine has already answered this process."""
    Patience._reached.set()


def retrying(what: str, operation: Callable[[], T]) -> T:
    """Calls `operation` and returns its result; retries while it fails temporarily, for at most `patience` seconds.

    Args:
      what: the path, or a description of the operation, for messages.
      operation: must allow repeated calls, even after a success whose answer got lost.

    Raises:
      StorageError: it failed for longer than `patience`, or the service refused it.
      Exception: any other error of `operation`, immediately.
    """
    own = Patience(what)
    while True:
        try:
            answer = operation()
            Patience._reached.set()
            return answer
        except Exception as error:
            pause = own.pause(error)
        time.sleep(pause)


async def retrying_async(what: str, operation: Callable[[int], Any]) -> Any:
    """As `retrying`; `operation(failures)` returns the coroutine of one try, given the number of previous failures."""
    import asyncio

    own = Patience(what)
    while True:
        try:
            answer = await operation(own.failures)
            Patience._reached.set()
            return answer
        except Exception as error:
            pause = own.pause(error)
        await asyncio.sleep(pause)
