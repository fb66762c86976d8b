"""gcsfs with our patience: each request is tried again as `retries` says, and none waits for ever.

`storage` has fsspec take this class for gs:// paths in the whole process, for Orbax's own files, too.
"""

import asyncio
import contextlib
import json
import re
import urllib.parse

import aiohttp
import gcsfs

from redundancy.storage import retries

_CONNECT = 30.0  # seconds
_SLOWEST = 100_000.0  # bytes a second, of uploads
_DONE = (204, {}, None, b"")
# One try of a request, without gcsfs's own retries: they give up after half a minute, and say nothing until then.
_request_once = getattr(gcsfs.GCSFileSystem._request, "__wrapped__", gcsfs.GCSFileSystem._request)


class PerhapsOursError(FileExistsError):
    """There is an object where one was to be created: another's, or ours, if the answer to an earlier try got lost."""


class _LostUploadError(ConnectionError):
    """An upload has to begin again: no request of it can succeed any more, but the whole may."""


class PatientGCSFileSystem(gcsfs.GCSFileSystem):
    """Google Cloud Storage. Listings are never cached: other processes write to the same folders."""

    def __init__(self, *args, **kwargs):
        silence = retries.silence()
        # Large objects take long, so only silence counts.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=min(_CONNECT, silence), sock_read=silence)
        kwargs = {"requests_timeout": timeout, "use_listings_cache": False, **kwargs}
        super().__init__(*args, **kwargs)

    async def _set_session(self):
        session = await super()._set_session()
        session._retry_connection = False  # aiohttp's own second try, which would be taken for the first
        return session

    async def _request(self, method, path, *args, data=None, **kwargs):
        """One request, tried again while it fails for a while.

        Raises:
          StorageError: it failed for too long, the service refuses, or there is no such bucket.
          PerhapsOursError, FileNotFoundError, FileExistsError and others, as gcsfs.
        """
        url = urllib.parse.urlsplit(self._format_path(path, args))
        body = data.getbuffer() if hasattr(data, "getbuffer") else data
        what = _named(url, kwargs.get("prefix") or kwargs.get("name"), body)
        session = "upload_id=" in url.query or "/upload/resumable/" in url.path
        # aiohttp has no timeout for a body that nobody takes.
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
                if missing and method == "DELETE" and failures:  # done by a try whose answer got lost
                    return _DONE
                if isinstance(error, FileExistsError) and failures:
                    raise PerhapsOursError(str(error)) from error
                raise

        if session and method == "DELETE":  # an upload that failed; the service forgets it in any case
            with contextlib.suppress(Exception):
                await once(0)
            return _DONE
        answer = await retries.retrying_async(what, once)
        if isinstance(answer, Exception):
            raise answer
        return answer


def _named(url: urllib.parse.SplitResult, asked: str | None, body: object) -> str:
    """gs://BUCKET/NAME of what a request is about, by its URL, the name it asks for, or the head of its body."""
    found = re.search("/b/([^/]*)(?:/o/([^/]*))?", url.path)
    if not found:
        return f"{url.scheme}://{url.netloc}"
    name = urllib.parse.unquote(found[2] or "") or asked or urllib.parse.parse_qs(url.query).get("name", [""])[0]
    if not name and isinstance(body, bytes | memoryview):
        described = re.search(rb'^\{"name": ("(?:[^"\\]|\\.)*")', body[:4096], re.MULTILINE)
        name = json.loads(described[1]) if described else ""
    return f"gs://{urllib.parse.unquote(found[1])}/{name}".rstrip("/")
