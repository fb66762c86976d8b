"""What test_real_gcloud.py drives: launch's functions with the real gcloud or the fake one, and a storage emulator for the real.

The emulator ignores the condition of a resumable upload, in which Cloud Storage and gcloud agree; a small proxy before it
looks at that.
"""

import contextlib
import dataclasses
import functools
import hashlib
import http.server
import io
import json
import pathlib
import re
import runpy
import subprocess
import tarfile
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from launch import __main__ as command_line
from launch import prepare
from launch import run as run_lib
from launch import spec as spec_lib
from launch import start as start_lib
from launch.backends import CloudError
from launch.backends.queued_resources import Backend, Gcloud, GcsFiles
from launch.records import Resource
from launch.spec import Spec
from tests import gcs_emulator
from tests.launch import fake_gcloud
from tests.launch.cloud import FakeCloud

CONFIGS = pathlib.Path(command_line.__file__).with_name("configs")
COMMAND = ["select", "--workdir=gs://bucket/w"]
ZONE = "us-central1-a"
# Quotes, blanks, a newline and what a shell would expand.
QUOTED = ["two  blanks", "$HOME", "it's", "", "a\nb", "`id`", '"', "*"]
PROGRAM = "import json, os, sys; print('LAUNCH-ACK', json.dumps([os.environ['TPU_WORKER_ID'], *sys.argv[1:]]))"


@functools.cache
def spec(config: str, **changes: object) -> Spec:
    """The spec of a config that launch ships."""
    made = runpy.run_path(str(CONFIGS / f"{config}.py"))["get_config"]()
    made.update({"run": "r", "project": "p", "bucket": "gs://bucket", "budget_chip_hours": 9.0, **changes})
    made.zones = (ZONE,)
    return spec_lib.resolve(made)


SPECS = {
    "v5e": spec("v5e_spot"),
    "v4": spec("v4_spot"),
    "v6e": spec("v6e"),
    "all": spec(
        "v5e_spot",
        spot=False,
        reserved=True,
        service_account="sa@p.iam.gserviceaccount.com",
        network="n",
        subnetwork="s",
        internal_ips=True,
        wait_hours=0.5,
    ),
}


class Call(NamedTuple):
    """A command that launch gave to gcloud, and what became of it."""

    words: tuple[str, ...]
    code: int
    out: str
    err: str

    @property
    def command(self) -> str:
        """Its name, as the fake program calls it."""
        return next(name for name in fake_gcloud.COMMANDS if " ".join(self.words).startswith(f"{name} "))

    @property
    def error(self) -> str:
        """The error's text, without the command's name."""
        found = re.search(r"^ERROR: (?:\(\S+\) )?(.*)", self.err, re.M | re.S)
        return found[1].strip() if found else ""


class Result(NamedTuple):
    """Of a step: what launch made of it, or the kind of its error; and the commands it gave."""

    value: object
    calls: list[Call]


class Program:
    """One of the two programs: its environment, its cloud, and the results of the steps, by label."""

    def __init__(self, env: dict[str, str], cloud: FakeCloud, folder: pathlib.Path, labels: dict[str, dict[str, str]]):
        self.env, self.cloud, self.folder, self.labels = env, cloud, folder, labels
        self.files = GcsFiles(f"gs://{gcs_emulator.BUCKET}/launch", Gcloud("p"))
        self.generation, self.said = 0, []
        self.results: dict[str, Result] = {}
        (folder / "local").parent.mkdir(parents=True, exist_ok=True)
        (folder / "local").write_text('{"worker": 0}\n')

    def slices(self, which: str = "v5e") -> Backend:
        return Backend(SPECS[which])

    def create(self, name: str, which: str = "v5e") -> None:
        self.slices(which).create(name, ZONE, self.labels[which], 3600.0)

    def describe(self, name: str) -> Resource:
        return self.slices().describe(name, ZONE)

    def execute(self, name: str, argv: list[str], workers: tuple[int, ...] = (), which: str = "v5e") -> list[object]:
        """What the workers acknowledged."""
        said = self.slices(which).execute(name, ZONE, argv, workers, 120)
        return sorted(json.loads(line) for line in re.findall(r"^LAUNCH-ACK (.*)", said, re.M))

    def bootstrap(self) -> tuple[list[str], bytes]:
        """The command that starts a program on the hosts, and the code that it fetches."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            entry = tarfile.TarInfo("launch/worker.py")
            entry.size = len(PROGRAM)
            archive.addfile(entry, io.BytesIO(PROGRAM.encode()))
        sha256 = hashlib.sha256(packed.getvalue()).hexdigest()
        run = run_lib.Run(SPECS["v5e"], COMMAND)
        return start_lib.bootstrap(run, "start", 0, 1, sha256), packed.getvalue()

    def start(self, name: str) -> list[object]:
        """A start on the hosts, with the code in a file of theirs."""
        argv, code = self.bootstrap()
        (self.folder / "code").write_bytes(code)
        return self.execute(name, [str(self.folder / "code") if word.endswith(".tar.gz") else word for word in argv])

    def start_here(self) -> str:
        """What a host does at a start, with the code in the bucket."""
        argv, code = self.bootstrap()
        self.files.write(argv[4].removeprefix(self.files.uri("")), code)
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    def remember(self) -> bool:
        self.generation = self.files.generation("r/run.json")
        return self.generation > 0

    def preflight(self) -> list[str]:
        """What it prints, except for lines on this machine."""
        prepare.preflight(dataclasses.replace(SPECS["v5e"], project=""), COMMAND)
        return [line for line in self.said if not line.startswith(("code", "ssh key"))]


_HERE = threading.local()


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """While it lasts, what a step runs is run in the program's environment, and recorded."""
    run = subprocess.run

    def recorded(argv, **options):
        program = getattr(_HERE, "program", None)
        if program is None:
            return run(argv, **options)
        done = run(argv, env=program.env, **options)
        if argv[0] == "gcloud":
            out, err = ((text or b"").decode() for text in (done.stdout, done.stderr))
            if options.get("stderr") == subprocess.STDOUT:
                out, err = "", out
            _HERE.calls.append(Call(tuple(argv[1:]), done.returncode, out, err))
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "run", recorded)
        patch.setattr(prepare, "say", lambda text: _HERE.program.said.append(text))
        yield


class Step(NamedTuple):
    """Something that launch does, with both programs.

    Attributes:
      label: the test's name, and the key of the result.
      act: what it does.
      expected: what it returns, or the kind of the CloudError that it raises.
      error: what the error's text of the last command begins with, "" where that command succeeds.
      before: done with the cloud beforehand.
    """

    label: str
    act: Callable[[Program], object]
    expected: object = None
    error: str = ""
    before: Callable[[FakeCloud], None] | None = None


def run_all(steps: list[Step], program: Program) -> None:
    _HERE.program = program
    try:
        for step in steps:
            if step.before is not None:
                step.before(program.cloud)
            _HERE.calls = calls = []
            try:
                value = step.act(program)
            except CloudError as error:
                value = error.kind
            program.results[step.label] = Result(value, calls)
    finally:
        _HERE.program = None


@contextlib.contextmanager
def emulator_with_conditions() -> Iterator[str]:
    """The URL of an emulator of Cloud Storage that refuses resumable uploads whose condition does not hold."""
    refusal = {
        "message": "At least one of the pre-conditions you specified did not hold.",
        "errors": [{"domain": "global", "reason": "conditionNotMet", "locationType": "header", "location": "If-Match"}],
        "code": 412,
    }

    class Proxy(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
            wanted = query.get("ifGenerationMatch")
            if wanted is not None and self.path.startswith("/resumable/upload/"):
                name = urllib.parse.quote(json.loads(body)["name"], safe="")
                _, _, found = self._forward("GET", f"/storage/v1/b/{gcs_emulator.BUCKET}/o/{name}", b"")
                if json.loads(found).get("generation", "0") != wanted:
                    self._reply(412, {}, json.dumps({"error": refusal}).encode())
                    return
            self._reply(*self._forward(self.command, self.path, body))

        def _forward(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
            left_out = ("host", "content-length", "accept-encoding", "connection")
            headers = {key: value for key, value in self.headers.items() if key.lower() not in left_out}
            request = urllib.request.Request(upstream + path, body or None, headers, method=method)
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return answer.status, dict(answer.headers), answer.read()
            except urllib.error.HTTPError as answer:
                return (
                    answer.code,
                    dict(answer.headers),
                    b"{}" if method == "GET" and "alt=" not in path else answer.read(),
                )

        def _reply(self, code: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(code)
            for key, value in headers.items():
                if key.lower() not in ("content-length", "transfer-encoding", "date", "connection"):
                    self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = _serve

        def log_message(self, *args: object) -> None:
            pass

    with gcs_emulator.running() as upstream:
        proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
        proxy.daemon_threads = True
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_address[1]}"
        proxy.shutdown()
        proxy.server_close()
