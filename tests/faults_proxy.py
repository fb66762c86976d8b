"""An HTTP proxy on 127.0.0.1 that makes requests fail the ways networks and services do, for tests.

It runs in a thread of the test's process and knows of Google Cloud Storage only how its listings are asked for.
"""

import asyncio
import collections
import contextlib
import dataclasses
import json
import random
import socket
import struct
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator

# What may happen to a request instead of its answer. A number is the answer's status, which the server knows nothing of.
FAULTS = (
    "408",
    "429",
    "500",
    "502",
    "503",
    "reset",  # the connection is reset before the server knows
    "lost",  # the server has done it, and the connection is reset instead of the answer
    "stall",  # nothing is answered for `stall` seconds, then the connection is closed
    "stuck",  # half of the answer's body is sent, then as "stall"
    "truncate",  # half of the answer's body is sent, with its full length in the header, and the connection closed
    "trickle",  # the whole answer, slowly: no failure
    "damage",  # one byte of an object is another when it arrives, here or there: a share has none of it
)


@dataclasses.dataclass(frozen=True)
class Request:
    method: str
    target: str  # path and query
    headers: dict[str, str]  # lower-case names
    head: bytes
    body: bytes

    @property
    def names(self) -> str:
        """The path and query, unquoted, as one would search for an object's name."""
        return urllib.parse.unquote(self.target)


Chooser = Callable[[Request], str | None]


def share(part: float, kinds: tuple[str, ...] = FAULTS[:-1], seed: int = 0, few: tuple[str, ...] = ()) -> Chooser:
    """Every request fails with this probability, in one of these ways; in those of `few` a quarter as often."""
    rng = random.Random(seed)
    weights = [0.25 if kind in few else 1.0 for kind in kinds]
    return lambda _: rng.choices(kinds, weights)[0] if rng.random() < part else None


def first(count: int, *kinds: str, holding: str = "", method: str = "") -> Chooser:
    """The first `count` requests whose names hold this text, with this method, fail in these ways in turn."""
    left = iter(kinds * count)
    remaining = [count]

    def choose(request: Request) -> str | None:
        if remaining[0] <= 0 or holding not in request.names or method not in ("", request.method):
            return None
        remaining[0] -= 1
        return next(left)

    return choose


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, dict[str, str]] | None:
    """The head of an HTTP message and its header fields; None at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    fields = (line.split(":", 1) for line in head.decode("latin-1").split("\r\n")[1:] if ":" in line)
    return head, {name.strip().lower(): value.strip() for name, value in fields}


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        pieces = []
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            pieces.append(await reader.readexactly(size))
            await reader.readexactly(2)
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass
        return b"".join(pieces)
    return await reader.readexactly(int(headers.get("content-length", 0)))


class FaultsProxy:
    """Forwards requests to `upstream`, but those for which `choose` names a fault.

    Attributes:
      url: where it listens, from `start` on.
      upstream: URL of the server.
      choose: see FAULTS; may be replaced at any time.
      stall: seconds that a stalled connection stays open.
      list_delay: seconds until listings show what was written or removed.
      listed_at_once: text in the names of the folders whose listings are not late.
      requests: (method, target) of all requests.
      faults: how often each fault was made.
    """

    def __init__(self, upstream: str = "", choose: Chooser = lambda _: None, stall: float = 3600.0):
        self.upstream, self.choose, self.stall, self.list_delay = upstream, choose, stall, 0.0
        self.listed_at_once: str | None = None
        self.requests: list[tuple[str, str]] = []
        self.faults: collections.Counter[str] = collections.Counter()
        self._writers: set[asyncio.StreamWriter] = set()
        self._snapshots: list[tuple[float, list[dict]]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faults proxy", daemon=True)
        # Holds the port while nobody listens: connections are refused then.
        self._port = socket.socket()
        self._port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._port.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._port.getsockname()[1]}"
        self._server: asyncio.Server | None = None

    def start(self) -> None:
        self._thread.start()
        self._call(self._listen())

    def close(self) -> None:
        self._call(self._stop())
        self._call(self._cancel())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._port.close()

    def outage(self, seconds: float) -> None:
        """From now on, for so long, connections are refused, and those that there are are reset. Returns at once."""
        self.faults["outage"] += 1
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.call_later, seconds, lambda: self._loop.create_task(self._listen()))

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _listen(self) -> None:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind(self._port.getsockname())
        self._server = await asyncio.start_server(self._serve, sock=listening, backlog=128, limit=1 << 20)

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in tuple(self._writers):
            _reset(writer)

    async def _cancel(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        upstream: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        try:
            while (request := await self._request(reader, writer)) is not None:
                if not await self._answer(request, writer, upstream):
                    return
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            for _, of_server in upstream:
                of_server.close()
            writer.close()

    async def _request(self, reader, writer) -> Request | None:
        if (message := await _message(reader)) is None:
            return None
        head, headers = message
        if headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        method, target, _ = head.decode("latin-1").split(" ", 2)
        return Request(method, target, headers, head, await _body(reader, headers))

    async def _answer(self, request: Request, writer, upstream) -> bool:
        """Answers, or does not. Returns whether the connection goes on."""
        self.requests.append((request.method, request.target))
        fault = self.choose(request)
        if fault:
            self.faults[fault] += 1
        if fault and fault.isdigit():
            text = json.dumps({"error": {"code": int(fault), "message": "injected"}}).encode()
            writer.write(f"HTTP/1.1 {fault} Injected\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)
            await writer.drain()
            return True
        if fault == "stall":
            await asyncio.sleep(self.stall)
        if fault in ("reset", "stall"):
            _reset(writer)
            return False
        if fault == "damage" and "/upload/" in request.target:
            request = dataclasses.replace(request, body=_damaged(request.body))
        listing = self._stale_listing(request)
        if listing is not None:
            status, fields, body = "HTTP/1.1 200 OK", [("Content-Type", "application/json")], listing
        elif await self._is_other_generation(request):
            status, fields, body = "HTTP/1.1 412 Precondition Failed", [], b"{}"
        else:
            status, fields, body = await self._forward(request, upstream)
        if request.method in ("POST", "PUT", "DELETE", "PATCH") and self.list_delay:
            await self._snapshot(request)
        if fault == "lost":
            _reset(writer)
            return False
        bare = request.method == "HEAD" or status.split()[1] in ("204", "304")
        if not bare:
            fields = [*fields, ("Content-Length", str(len(body)))]
        head = "\r\n".join((status, *(f"{name}: {value}" for name, value in fields), "", "")).encode("latin-1")
        if fault in ("truncate", "stuck"):
            writer.write(head + body[: len(body) // 2])
            await writer.drain()
            if fault == "stuck":
                await asyncio.sleep(self.stall)
            if not body:
                _reset(writer)
            return False
        if fault == "damage" and body and b"Accept-Ranges" in head:
            body = _damaged(body)
        if fault == "trickle":
            await asyncio.sleep(0.2)
            step = max(1, len(body) // 4)
            for start in range(0, len(body), step):
                writer.write(head + body[start : start + step])
                head = b""
                await writer.drain()
                await asyncio.sleep(0.1)
            body = b""
        writer.write(head + (b"" if bare else body))
        await writer.drain()
        return request.headers.get("connection", "").lower() != "close"

    async def _forward(self, request: Request, upstream) -> tuple[str, list[tuple[str, str]], bytes]:
        """The server's status line, its header fields but those of the body's length, and the body."""
        for again in (False, True):
            fresh = not upstream
            if fresh:
                where = urllib.parse.urlsplit(self.upstream)
                upstream.append(await asyncio.open_connection(where.hostname, where.port, limit=1 << 20))
            reader, writer = upstream[0]
            try:
                lines = [
                    line
                    for line in request.head.decode("latin-1").split("\r\n")[:-2]
                    if line.split(":")[0].lower() not in ("content-length", "transfer-encoding", "expect", "connection")
                ]
                if request.body or request.method in ("POST", "PUT", "PATCH"):
                    lines.append(f"Content-Length: {len(request.body)}")
                writer.write("\r\n".join((*lines, "", "")).encode("latin-1") + request.body)
                await writer.drain()
                if (message := await _message(reader)) is None:
                    raise ConnectionResetError
                break
            except OSError:  # a kept connection that the server has closed meanwhile
                writer.close()
                upstream.clear()
                if again or fresh:
                    raise
        head, headers = message
        status, *rest = head.decode("latin-1").split("\r\n")[:-2]
        bare = request.method == "HEAD" or status.split()[1] in ("204", "304")
        body = b"" if bare else await _body(reader, headers)
        fields = [tuple(line.split(": ", 1)) for line in rest]
        return status, [each for each in fields if each[0].lower() not in ("content-length", "transfer-encoding")], body

    async def _ask(self, path: str) -> dict:
        """The server's JSON for a GET, {} where it answers with an error."""
        head = f"GET {path} HTTP/1.1\r\nHost: {self.url.removeprefix('http://')}\r\n\r\n".encode()
        upstream: list = []
        status, _, body = await self._forward(Request("GET", path, {}, head, b""), upstream)
        upstream[0][1].close()
        return json.loads(body) if status.split()[1] == "200" else {}

    async def _is_other_generation(self, request: Request) -> bool:
        """Whether a condition does not hold of a DELETE or an upload, which the emulator does not look at."""
        where = urllib.parse.urlsplit(request.target)
        query = urllib.parse.parse_qs(where.query)
        wanted, path = query.get("ifGenerationMatch", ["0"])[0], where.path
        if wanted == "0" or request.method not in ("DELETE", "POST"):
            return False
        if request.method == "POST":
            path = path.removeprefix("/upload") + "/" + urllib.parse.quote(query["name"][0], safe="")
        return (await self._ask(path)).get("generation", "0") != wanted

    async def _snapshot(self, request: Request) -> None:
        """Keeps what the bucket holds now, to answer later listings from."""
        parts = urllib.parse.urlsplit(request.target).path.split("/b/", 1)
        if len(parts) == 2:
            listed = await self._ask(f"/storage/v1/b/{parts[1].split('/')[0]}/o?maxResults=100000")
            self._snapshots.append((time.monotonic(), listed.get("items", [])))

    def _stale_listing(self, request: Request) -> bytes | None:
        """The answer to a listing of objects as it was `list_delay` seconds ago; None for other requests."""
        where = urllib.parse.urlsplit(request.target)
        if not self.list_delay or request.method != "GET" or not where.path.endswith("/o"):
            return None
        if self.listed_at_once and self.listed_at_once in request.names:
            return None
        query = dict(urllib.parse.parse_qsl(where.query))
        old = [items for moment, items in self._snapshots if moment <= time.monotonic() - self.list_delay]
        self.faults["stale listing"] += bool(self._snapshots) and (not old or old[-1] is not self._snapshots[-1][1])
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        items, prefixes = [], {}
        for item in old[-1] if old else []:
            name = item["name"]
            inside = name.startswith(prefix) and name >= query.get("startOffset", "")
            if not inside or ("endOffset" in query and name >= query["endOffset"]):
                continue
            if delimiter and delimiter in name[len(prefix) :]:
                prefixes[prefix + name[len(prefix) :].split(delimiter)[0] + delimiter] = None
            else:
                items.append(item)
        if limit := int(query.get("maxResults", 0)):
            items, prefixes = items[:limit], list(prefixes)[:limit]
        return json.dumps({"kind": "storage#objects", "items": items, "prefixes": list(prefixes)}).encode()


def _damaged(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def _reset(writer: asyncio.StreamWriter) -> None:
    """Ends the connection as when the other machine has crashed: with a reset, not in order."""
    with contextlib.suppress(OSError):
        of = writer.get_extra_info("socket")
        of.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextlib.contextmanager
def running(upstream: str = "", **kwargs) -> Iterator[FaultsProxy]:
    """A proxy that runs; set its `upstream` before the first request if it is not given."""
    proxy = FaultsProxy(upstream, **kwargs)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.close()
