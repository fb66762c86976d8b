"""gcsfs with the retries of `retries`, and with a timeout for every request.

fsspec uses this class for all gs:// paths in the process, including the files that Orbax writes.
"""

import asyncio
import contextlib
import json
import re
import urllib.parse

import aiohttp
import gcsfs

from redundancy.storage import retries

_CONNECT = 30.0  # timeout in seconds
_SLOWEST = 100_000.0  # bytes per second; slower uploads time out
_DONE = (204, {}, None, b"")
# A single try of a request. gcsfs's own retries give up after half a minute and log nothing until then.
_request_once = getattr(gcsfs.GCSFileSystem._request, "__wrapped__", gcsfs.GCSFileSystem._request)


class PerhapsOursError(FileExistsError):
    """The object to be created already exists; an earlier try, whose answer got lost, may have created it."""


class _LostUploadError(ConnectionError):
    """The service no longer knows an upload. Its requests cannot succeed, but a new upload may."""


class PatientGCSFileSystem(gcsfs.GCSFileSystem):
    """Google Cloud Storage. Listings are not cached, since other processes write to the same folders."""

    def __init__(self, *args, **kwargs):
        silence = retries.silence()
        # Large objects take long, so a connection counts as lost only after some time without any byte.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=min(_CONNECT, silence), sock_read=silence)
        kwargs = {"requests_timeout": timeout, "use_listings_cache": False, **kwargs}
        super().__init__(*args, **kwargs)

    async def _set_session(self):
        session = await super()._set_session()
        session._retry_connection = False  # otherwise aiohttp would retry by itself, uncounted by us
        return session

    async def _request(self, method, path, *args, data=None, **kwargs):
        """One request, retried while it fails temporarily.

        Raises:
          StorageError: it failed for too long, the service refused it, or there is no such bucket.
          PerhapsOursError: the object to be created exists, and an earlier try may have created it.
          FileNotFoundError, FileExistsError and others: as gcsfs raises them.
        """
        url = urllib.parse.urlsplit(self._format_path(path, args))
        body = data.getbuffer() if hasattr(data, "getbuffer") else data
        what = _named(url, kwargs.get("prefix") or kwargs.get("name"), body)
        session = "upload_id=" in url.query or "/upload/resumable/" in url.path
        # aiohttp itself has no timeout for a request body that the server does not read.
        size = len(body) if hasattr(body, "__len__") else 0
        limit = None if data is None else 2 * retries.silence() + _CONNECT + size / _SLOWEST
        del body

        async def once(failures):
            try:
                return await asyncio.wait_for(_request_once(self, method, path, *args, data=data, **kwargs), limit)
            except Exception as error:
                missing = isinstance(error, FileNotFoundError)
                if session and (missing or retries.status_of(error) == 410):
                    return _LostUploadError(f"the service has forgotten the upload of {what}")
                if missing and re.search("/b/[^/]*/o$", url.path):
                    raise retries.no_bucket(what) from error
                if missing and method == "DELETE" and failures:  # an earlier try removed it, and the answer got lost
                    return _DONE
                if isinstance(error, FileExistsError) and failures:
                    raise PerhapsOursError(str(error)) from error
                raise

        if session and method == "DELETE":  # cancels a failed upload, which the service discards anyway
            with contextlib.suppress(Exception):
                await once(0)
            return _DONE
        answer = await retries.retrying_async(what, once)
        if isinstance(answer, Exception):
            raise answer
        return answer


def _named(url: urllib.parse.SplitResult, asked: str | None, body: object) -> str:
    """gs://BUCKET/NAME of a request's object, from the URL, the parameters or the start of the body."""
    found = re.search("/b/([^/]*)(?:/o/([^/]*))?", url.path)
    if not found:
        return f"{url.scheme}://{url.netloc}"
    name = urllib.parse.unquote(found[2] or "") or asked or urllib.parse.parse_qs(url.query).get("name", [""])[0]
    if not name and isinstance(body, bytes | memoryview):
        described = re.search(rb'^\{"name": ("(?:[^"\\]|\\.)*")', body[:4096], re.MULTILINE)
        name = json.loads(described[1]) if described else ""
    return f"gs://{urllib.parse.unquote(found[1])}/{name}".rstrip("/")
