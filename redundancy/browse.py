"""The command `browse`: the report of a workdir, local or gs://, at an address that only this machine reaches.

Serves the files of report/ to GET and HEAD and nothing else, and writes nothing.
"""

import dataclasses
import errno
import functools
import http.server
import os
import sys
import urllib.parse
import webbrowser
from http import HTTPStatus

from absl import logging

from redundancy import storage
from redundancy.runtime.errors import ConfigError, UserError, WorkdirError
from redundancy.workdir import Workdir

_HOST, _PORT = "127.0.0.1", 8899
_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "json": "application/json",
    "svg": "image/svg+xml",
    "png": "image/png",
    "webp": "image/webp",
    "jpg": "image/jpeg",
    "pdf": "application/pdf",
    "csv": "text/csv; charset=utf-8",
    "txt": "text/plain; charset=utf-8",
}


@dataclasses.dataclass(frozen=True)
class Request:
    """What the command line asks for.

    Attributes:
      port: of the address; None is 8899. 0 takes a free one.
      no_open: whether the browser is left alone.
    """

    port: int | None = None
    no_open: bool = False


def _parts(url: str) -> list[str] | None:
    """Names of the folders and of the file below report/ that a request's URL means; None where it may mean none.

    A name is plain: not hidden, without separators of any system, and not "..".
    """
    path, *_ = url.partition("?")[0].partition("#")
    if not path.startswith("/"):
        return None
    try:
        path = urllib.parse.unquote(path, errors="strict")
    except UnicodeDecodeError:
        return None
    parts = path[1:].split("/")
    if parts[-1] == "":
        parts[-1] = "index.html"
    sound = all(part and part[0] != "." and part.isprintable() and not set(part) & set('\\:%*?"<>|') for part in parts)
    return parts if sound and "." in parts[-1] else None


def _read(root: str, parts: list[str]) -> bytes | None:
    """The bytes of a file below the folder `root`; None where there is none, or where links lead out of the folder."""
    path = storage.join(root, *parts)
    try:
        if not storage.is_local(root):
            return storage.read_bytes(path)
        folder = os.path.realpath(root.removeprefix("file://"))
        real = os.path.realpath(path.removeprefix("file://"))
        if os.path.commonpath([folder, real]) != folder or not os.path.isfile(real):
            return None
        # Of a link that is put there only now, too, nothing is read.
        descriptor = os.open(real, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        with open(descriptor, "rb") as file:
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
    timeout = 60  # seconds: a connection that says nothing is closed

    def __init__(self, root: str, *arguments):
        self._root = root
        super().__init__(*arguments)

    def _is_meant(self) -> bool:
        """Whether the request was sent to this address: a page of another site that has its own name point here is not."""
        port = self.server.server_address[1]
        names = {f"{name}:{port}" for name in (_HOST, "localhost")} | ({_HOST, "localhost"} if port == 80 else set())
        hosts = self.headers.get_all("Host") or []
        return len(hosts) == 1 and hosts[0].strip().lower() in names

    def do_GET(self):
        self._answer(body=True)

    def do_HEAD(self):
        self._answer(body=False)

    def _answer(self, body: bool) -> None:
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # what follows is no request
        if not self._is_meant():
            self._send(HTTPStatus.MISDIRECTED_REQUEST, b"wanted the address that was printed\n", "text/plain", body)
            return
        parts = _parts(self.path)
        try:
            data = None if parts is None else _read(self._root, parts)
        except (UserError, OSError) as error:
            logging.warning("%s: %s", self.path, str(error).splitlines()[0])
            self._send(HTTPStatus.BAD_GATEWAY, b"the storage cannot be read; the log tells why\n", "text/plain", body)
            return
        if data is None:
            self._send(HTTPStatus.NOT_FOUND, b"no such file of the report\n", "text/plain", body)
        else:
            kind = _TYPES.get(parts[-1].rpartition(".")[2].lower(), "application/octet-stream")
            self._send(HTTPStatus.OK, data, kind, body)

    def _send(self, status: HTTPStatus, data: bytes, kind: str, body: bool) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(data))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("X-Frame-Options", "DENY"),
            ("Referrer-Policy", "no-referrer"),
        ):
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, form: str, *arguments) -> None:
        """Says nothing of each request."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = os.name == "posix"  # elsewhere it would share the port with whoever has it

    def handle_error(self, request, client_address):
        """A browser that goes away is no error."""
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            logging.warning("%s: %s", client_address[0], error)


def make_server(workdir: Workdir, port: int | None = None) -> http.server.ThreadingHTTPServer:
    """The server of a workdir's report, bound and not yet serving.

    Raises:
      WorkdirError: there is no report.
      ConfigError: the port is taken, or may not be used.
    """
    if not storage.exists(storage.join(workdir.report, "index.html")):
        raise WorkdirError(
            f"{workdir.report}/index.html is not there: no report has been written. "
            f'"redundancy report --config FILE --workdir {workdir.root}" writes it once the sweep is finished; '
            f'"redundancy status --workdir {workdir.root}" tells how far it is.'
        )
    port = _PORT if port is None else port
    try:
        return _Server((_HOST, port), functools.partial(_Handler, workdir.report))
    except OSError as error:
        why = "is taken by another program" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise ConfigError(f"--port={port}: the port {why}. Choose another, for example --port={port + 1}.") from error


def browse(request: Request, workdir: Workdir) -> None:
    """Serves until Ctrl-C; raises as `make_server`."""
    server = make_server(workdir, request.port)
    address = f"http://{_HOST}:{server.server_address[1]}/"
    print(f"{address} serves {workdir.report}; Ctrl-C ends it", flush=True)
    try:
        if not request.no_open:
            _open(address)
        server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


def _open(address: str) -> None:
    """Opens the browser, where there is one that has a window of its own."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return
    try:
        webbrowser.open(address)
    except webbrowser.Error as error:
        logging.warning("no browser could be opened (%s)", error)
