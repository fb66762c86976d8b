"""The command `browse`: serves the report of a local or gs:// workdir at an address that only this machine reaches.

Answers only GET and HEAD requests for files of report/, and writes nothing.
"""

import contextlib
import errno
import functools
import http.server
import os
import signal
import sys
import threading
import urllib.parse
import webbrowser
from collections.abc import Iterator
from http import HTTPStatus

from absl import logging

from redundancy import storage
from redundancy.runtime.errors import ConfigError, UserError, WorkdirError
from redundancy.workdir import Workdir

_HOST, _PORT = "127.0.0.1", 8899
_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "svg": "image/svg+xml",
    "png": "image/png",
    "pdf": "application/pdf",
}
_FIELDS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


def _parts(url: str) -> list[str] | None:
    """The folders and the file below report/ that a URL names; None if one is hidden, is "..", or has a separator."""
    try:
        path = urllib.parse.unquote(url.partition("?")[0].partition("#")[0], errors="strict")
    except UnicodeDecodeError:
        return None
    root, *parts = path.split("/")
    if root or not parts:
        return None
    parts[-1] = parts[-1] or "index.html"
    sound = all(part and part[0] != "." and part.isprintable() and not set(part) & set('\\:%*?"<>|') for part in parts)
    return parts if sound and "." in parts[-1] else None


def _read(root: str, parts: list[str]) -> bytes | None:
    """The bytes of a file below the folder `root`; None if there is none, or if links lead out of the folder."""
    path = storage.join(root, *parts)
    try:
        if not storage.is_local(root):
            return storage.read_bytes(path)
        folder = os.path.realpath(storage.local_path(root))
        real = os.path.realpath(storage.local_path(path))
        if os.path.commonpath([folder, real]) != folder or not os.path.isfile(real):
            return None
        # Does not follow a link that was put there after the check.
        with open(os.open(real, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError):
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
            return None
        raise


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers from the folder `root`."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "redundancy", ""
    timeout = 60  # seconds until a silent connection is closed

    def __init__(self, root: str, *arguments):
        self._root = root
        super().__init__(*arguments)

    def _is_meant(self) -> bool:
        """Whether the request names this address, and not another name that resolves to it (DNS rebinding)."""
        port = self.server.server_address[1]
        ends = (f":{port}", "") if port == 80 else (f":{port}",)
        hosts = self.headers.get_all("Host") or []
        return len(hosts) == 1 and hosts[0].strip().lower() in {
            name + end for name in (_HOST, "localhost") for end in ends
        }

    def do_GET(self):
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # the bytes that follow may be no request
        status, data, kind = self._answer()
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **_FIELDS}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_HEAD = do_GET

    def _answer(self) -> tuple[HTTPStatus, bytes, str]:
        """Status, body and its type."""
        if not self._is_meant():
            return HTTPStatus.MISDIRECTED_REQUEST, b"wanted the address that was printed\n", "text/plain"
        parts = _parts(self.path)
        try:
            data = None if parts is None else _read(self._root, parts)
        except (UserError, OSError) as error:
            logging.warning("%s: %s", self.path, str(error).splitlines()[0])
            return HTTPStatus.BAD_GATEWAY, b"the storage cannot be read; see the log\n", "text/plain"
        if data is None:
            return HTTPStatus.NOT_FOUND, b"no such file of the report\n", "text/plain"
        return HTTPStatus.OK, data, _TYPES.get(parts[-1].rpartition(".")[2].lower(), "application/octet-stream")

    def log_message(self, form: str, *arguments) -> None:
        """Logs no request."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = os.name == "posix"  # on Windows it would share a port that another program uses

    def handle_error(self, request, client_address):
        """Logs errors other than a browser that goes away."""
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            logging.warning("%s: %s", client_address[0], error)


def make_server(workdir: Workdir, port: int | None) -> http.server.ThreadingHTTPServer:
    """The server of a workdir's report, bound and not yet serving.

    Raises:
      WorkdirError: there is no report.
      ConfigError: the port cannot be used.
    """
    if not storage.exists(storage.join(workdir.report, "index.html")):
        raise WorkdirError(
            f"{workdir.report}/index.html is not there: no report has been written. "
            f'"redundancy report --config FILE --workdir {workdir.root}" writes it once a trial of the sweep is complete; '
            f'"redundancy status --workdir {workdir.root}" shows its progress.'
        )
    port = _PORT if port is None else port
    try:
        return _Server((_HOST, port), functools.partial(_Handler, workdir.report))
    except OSError as error:
        why = "is taken by another program" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise ConfigError(f"--port={port}: the port {why}. Choose another, for example --port={port + 1}.") from error


def browse(workdir: Workdir, port: int | None = None, no_open: bool = False) -> None:
    """Serves until Ctrl-C or SIGTERM and, unless `no_open`, opens the browser; raises as `make_server`."""
    server = make_server(workdir, port)
    port = server.server_address[1]
    address = f"http://{_HOST}:{port}/"
    with contextlib.suppress(KeyboardInterrupt), _interrupted_by_sigterm(), server:
        print(f"{address} serves {workdir.report}; Ctrl-C ends it", flush=True)
        if not _has_window():
            print(
                f"From another machine: ssh -L {port}:{_HOST}:{port} USER@THIS_MACHINE, then open {address} there",
                flush=True,
            )
        if not no_open:
            _open(address)
        server.serve_forever(poll_interval=0.2)


@contextlib.contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Within it SIGTERM does what Ctrl-C does: there is nothing to save. Python allows that in the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _has_window() -> bool:
    """Whether this machine can show a window."""
    return not sys.platform.startswith("linux") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _open(address: str) -> None:
    """Opens the browser if this machine has one with a window."""
    if not _has_window():
        return
    try:
        webbrowser.open(address)
    except webbrowser.Error as error:
        logging.warning("no browser could be opened (%s)", error)
