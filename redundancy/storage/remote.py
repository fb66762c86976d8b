"""Remote files through fsspec: reads in ranges, uploads of whole files, and retries."""

import base64
import errno
import hashlib
import io
import os
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

# gcsfs and TensorStore read these variables at first use. Without them gcsfs would look up the kind of each bucket by gRPC,
# which this package does not need, and TensorStore would wait forever for a server that does not respond.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
os.environ.setdefault("TENSORSTORE_CURL_CONNECT_TIMEOUT_SECONDS", "30")
os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", "60")
os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")

import fsspec

from redundancy.runtime.errors import DataError, StorageError, UserError
from redundancy.storage.retries import retrying, status_of

# Imports the class, and with it gcsfs, only when the first gs:// path is used, by this package or by Orbax.
for _protocol in ("gs", "gcs"):
    fsspec.register_implementation(
        _protocol,
        "redundancy.storage.gcs.PatientGCSFileSystem",
        clobber=True,
        errtxt="gs:// paths need the package gcsfs",
    )

_T = TypeVar("_T")

_TAIL = 1 << 18  # bytes read when a remote file is opened: a whole small file, or the footer of a Parquet file
_AHEAD = 1 << 20  # least number of bytes of every later read


def is_local(path: str) -> bool:
    return "://" not in path or path.startswith("file://")


def local_path(path: str) -> str:
    """Removes the prefix file:// from a local path."""
    return path.removeprefix("file://")


def is_gs(path: str) -> bool:
    return path.startswith(("gs://", "gcs://"))


def filesystem(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    if is_gs(path) and not re.match(r"gc?s://[a-z0-9]([-_.a-z0-9]*[a-z0-9])?(/|$)", path):
        raise DataError(f"{path} names no bucket. Wanted: gs://bucket/path; a bucket's name is of a-z, 0-9, -, _ and .")
    try:
        return fsspec.core.url_to_fs(path)
    except ImportError as error:
        hint = ' Install the extra: pip install "redundancy[gcp]".' if is_gs(path) else ""
        raise DataError(f"{path}: {error}.{hint}") from error
    except UserError:
        raise
    except ValueError as error:
        raise DataError(f"{path}: {error}. Wanted: a local path or gs://bucket/path.") from error


def patiently(path: str, operation: Callable[[fsspec.AbstractFileSystem, str], _T]) -> _T:
    """Calls `operation` with the path's file system and its name there; for a remote path, with `retrying`."""
    if is_local(path):
        return operation(*filesystem(path))
    try:
        return retrying(path, lambda: operation(*filesystem(path)))
    except FileNotFoundError as error:  # gcsfs's error names a URL instead of the path
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error


def download(
    fs: fsspec.AbstractFileSystem, name: str, span: str = "", generation: str | None = None
) -> tuple[Mapping[str, str], bytes]:
    """Downloads an object on gs://, or a range of it such as "0-99" or "-99"; returns header fields and bytes.

    Raises:
      ConnectionError: the received bytes do not match their checksum.
    """
    asked = {"Range": f"bytes={span}"} if span else {}
    url = fs.url(name) + (f"&generation={generation}" if generation else "")
    headers, data = fs.call("GET", url, headers=asked)
    md5 = re.search(r"\bmd5=([^,\s]+)", ",".join(headers.getall("X-Goog-Hash", [])))
    if md5 and not span and "Content-Encoding" not in headers and md5[1] != _md5(data):
        raise ConnectionError(f"received {len(data)} bytes with a wrong checksum")
    return headers, data


def _md5(data: bytes | memoryview) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def upload(fs: fsspec.AbstractFileSystem, name: str, data: bytes, **mode: str) -> None:
    """Uploads a whole object; raises ConnectionError if the service received different bytes."""
    answer = fs.pipe_file(name, data, **mode)
    if isinstance(answer, dict) and answer.get("md5Hash") not in (None, _md5(data)):
        raise ConnectionError(f"sent {len(data)} bytes, but the service received other bytes")


class _RemoteFile(io.RawIOBase):
    """A remote file, read in ranges with `retrying`. All ranges come from the same version of the file."""

    def __init__(self, path: str):
        self._path, self._at, self._generation = path, 0, None
        self._tail, self._size = patiently(path, self._open)

    def _open(self, fs: fsspec.AbstractFileSystem, name: str) -> tuple[bytes, int]:
        """The last bytes of the file and its size."""
        if not is_gs(self._path):
            size = fs.info(name)["size"]
            return fs.cat_file(name, start=max(0, size - _TAIL), end=size), size
        try:
            headers, tail = download(fs, name, f"-{_TAIL}")
        except Exception as error:
            if status_of(error) == 416:  # the file is empty
                return b"", 0
            raise
        self._generation = headers.get("X-Goog-Generation")
        size = re.search(r"/(\d+)$", headers.get("Content-Range", ""))
        return (self._whole(tail, min(_TAIL, int(size[1]))), int(size[1])) if size else (tail, len(tail))

    @staticmethod
    def _whole(data: bytes, wanted: int) -> bytes:
        if len(data) != wanted:
            raise ConnectionError(f"received {len(data)} bytes, requested {wanted}")
        return data

    def _range(self, start: int, end: int) -> bytes:
        def read(fs: fsspec.AbstractFileSystem, name: str) -> bytes:
            if not is_gs(self._path):
                return self._whole(fs.cat_file(name, start=start, end=end), end - start)
            _, data = download(fs, name, f"{start}-{end - 1}", self._generation)
            return self._whole(data, end - start)

        try:
            return patiently(self._path, read)
        except FileNotFoundError as error:
            raise StorageError(
                f"{self._path} was replaced or removed while it was read; give the same command again."
            ) from error

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer) -> int:
        start, end = self._at, min(self._at + len(buffer), self._size)
        if start >= end:
            return 0
        first = self._size - len(self._tail)
        data = self._tail[start - first : end - first] if start >= first else self._range(start, end)
        buffer[: len(data)] = data
        self._at = end
        return len(data)


def open_remote(path: str) -> io.BufferedReader:
    """Opens the file for reading bytes; the result is seekable. A small file takes a single request."""
    return io.BufferedReader(_RemoteFile(path), _AHEAD)
