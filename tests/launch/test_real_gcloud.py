"""The contract with gcloud: the installed program takes every command line that launch/ gives, and the fake one answers alike.

launch's own functions are driven, with the real program and with the fake one, each against a fake cloud of its own; what
they hand to gcloud is recorded. Storage is an emulator for the real one. It ignores the condition of a resumable upload, in
which Cloud Storage and gcloud agree; a small proxy before it looks at that.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import http.server
import inspect
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
from launch import run as run_lib
from launch import spec as spec_lib
from launch import start as start_lib
from launch import worker
from launch.backends import CloudError
from launch.backends.queued_resources import Backend, Gcloud, GcsFiles
from launch.records import Resource, State
from launch.spec import Spec
from tests import gcs_emulator
from tests.launch import cloud, conftest, fake_gcloud
from tests.launch.cloud import FakeCloud, Scenario

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
        self.generation = 0
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


SCENARIOS = {
    "full": Scenario(create_error=cloud.CAPACITY),
    "denied": Scenario(create_error=cloud.DENIED),
    "reserved": Scenario(create_error=cloud.RESERVATION),
    "invalid": Scenario(create_error=cloud.INVALID),
    "failed": Scenario(waiting=0, provisioning=0, failed=cloud.CAPACITY),
}


def creates(name: str, which: str = "v5e") -> Callable[[Program], object]:
    return lambda it: it.create(name, which)


def sees(name: str) -> Callable[[Program], object]:
    """The state, whether the hosts are ready, and how many there are."""

    def act(it: Program) -> object:
        found = it.describe(name)
        assert found.state is State.ABSENT or found.state is State.UNKNOWN or found.labels in ({}, it.labels["v5e"])
        return found.state, found.ready, found.hosts, found.message

    return act


WAITING = (State.WAITING, True, 0, "")
PRINT = ["python3", "-c", f"import sys; sys.argv[1:1] = []; {PROGRAM}", *QUOTED]

TPU_STEPS = [
    Step("nothing exists", lambda it: it.slices().existing(), []),
    Step("absent", sees("n"), (State.ABSENT, True, 0, ""), "NOT_FOUND: Resource 'projects/p/locations/"),
    Step("create", creates("n")),
    Step("create again", creates("n"), None, "ALREADY_EXISTS: "),
    Step("waiting", sees("n"), WAITING),
    Step("provisioning", sees("n"), WAITING),
    Step("active", sees("n"), (State.ACTIVE, True, 2, "")),
    Step("create v4", creates("v4", "v4")),
    Step("create v6e", creates("v6e", "v6e")),
    Step("create with all flags", creates("all", "all")),
    Step(
        "existing",
        lambda it: [(each.name, each.zone, each.state, dict(each.labels)) for each in it.slices().existing()]
        == [("n", ZONE, State.ACTIVE, it.labels["v5e"]), *((k, ZONE, State.WAITING, it.labels[k]) for k in ("v4", "v6e", "all"))],
        True,
    ),
    Step("start", lambda it: it.start("n"), [[str(i), "start", "gs://bucket/launch/r/slice-0/attempt-1/job.json", "1"] for i in (0, 1)]),
    Step("to one host, through IAP", lambda it: it.execute("n", PRINT, (1,), "all"), [["1", *QUOTED]]),
    Step("no node", sees("n"), (State.ACTIVE, False, 0, "node MISSING, HEALTHY, 0 hosts"), "NOT_FOUND: ", lambda it: it.change("n", node="")),
    Step("lost", sees("n"), (State.BROKEN, True, 0, "SUSPENDED"), before=lambda it: it.change("n", state="SUSPENDED", node="PREEMPTED")),
    Step("to a lost slice", lambda it: it.execute("n", PRINT), []),
    Step("node lost", sees("n"), (State.ACTIVE, False, 2, "node PREEMPTED, HEALTHY, 2 hosts"), before=lambda it: it.change("n", state="ACTIVE", health="")),
    Step("delete", lambda it: it.slices().delete("n", ZONE)),
    Step("deleting", sees("n"), (State.DELETING, True, 0, "")),
    Step("delete nothing", lambda it: it.slices().delete("no", ZONE), None, "NOT_FOUND: "),
    Step("no capacity", creates("full"), "capacity", "RESOURCE_EXHAUSTED: There is no more capacity"),
    Step("denied", creates("denied"), "permission", "PERMISSION_DENIED: "),
    Step("no reservation", creates("reserved", "all"), "capacity", "FAILED_PRECONDITION: Insufficient reserved capacity"),
    Step("invalid", creates("invalid"), "invalid", "INVALID_ARGUMENT: "),
    Step("create to fail", creates("failed")),
    Step("failed", sees("failed"), (State.BROKEN, True, 0, "RESOURCE_EXHAUSTED: " + cloud.CAPACITY.message)),
]  # fmt: skip

NO_OBJECTS = "The following URLs matched no objects or files:"
STORAGE_STEPS = [
    Step("where the bucket is", lambda it: it.slices().warning(), ""),
    Step(
        "no bucket",
        lambda it: Backend(dataclasses.replace(SPECS["v5e"], bucket="gs://none")).warning(),
        "where gs://none is could not be found out: ERROR: (gcloud.storage.buckets.describe) gs://none not found: 404.",
        "gs://none not found: 404.",
    ),
    Step("read nothing", lambda it: it.files.read("r/run.json"), None, NO_OBJECTS),
    Step("no generation", Program.remember, False, "gs://bucket/launch%2Fr%2Frun.json not found: 404."),
    Step("write the first", lambda it: it.files.write("r/run.json", b"one", it.generation)),
    Step("write too late", lambda it: it.files.write("r/run.json", b"two", it.generation), "changed", "HTTPError 412"),
    Step("generation", Program.remember, True),
    Step("write the next", lambda it: it.files.write("r/run.json", b"three", it.generation)),
    Step("and too late", lambda it: it.files.write("r/run.json", b"four", it.generation), "changed", "HTTPError 412"),
    Step("read", lambda it: it.files.read("r/run.json"), b"three"),
    Step("write", lambda it: it.files.write("r/host-1.json", b'{"worker": 1}\n')),
    Step("put", lambda it: worker.put(f"{it.folder}/local", it.files.uri("r/host-0.json"))),
    Step("fetch", lambda it: worker.fetch(it.files.uri("r/host-0.json")), b'{"worker": 0}\n'),
    Step("lines", lambda it: it.files.lines("r/host-*.json"), [b'{"worker": 0}', b'{"worker": 1}']),
    Step("no lines", lambda it: it.files.lines("x/host-*.json"), [], NO_OBJECTS),
    Step("names", lambda it: it.files.names("r"), ["host-0.json", "host-1.json", "run.json"]),
    Step("no names", lambda it: it.files.names("x"), [], "One or more URLs matched no objects."),
    Step("folders", lambda it: it.files.names(""), ["r"]),
    Step(
        "start with the code in the bucket",
        Program.start_here,
        'LAUNCH-HERE\nLAUNCH-ACK ["9", "start", "gs://bucket/launch/r/slice-0/attempt-1/job.json", "1"]\n',
    ),
]


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


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Iterator[tuple[Program, Program]]:
    """Runs everything at once: a call of the real program takes a second, one that meets an outage half a minute."""
    folder = tmp_path_factory.mktemp("contract")
    labels = {name: run_lib.Run(each, COMMAND).labels(0) for name, each in SPECS.items()}
    with contextlib.ExitStack() as stack:
        clouds = [stack.enter_context(FakeCloud(hosts=2, homes=folder / "hosts")) for _ in range(3)]
        for each in clouds:
            for name, scenario in SCENARIOS.items():
                each.script(name, scenario)
        real_cloud, fake_cloud, sick_cloud = clouds
        storage_url = stack.enter_context(emulator_with_conditions())
        real_env = conftest.real_environment(real_cloud, folder)
        real_env["CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE"] = f"{storage_url}/storage/v1/"
        fake_env = conftest.fake_environment(fake_cloud, folder)
        for env in (real_env, fake_env):
            env["TPU_WORKER_ID"] = "9"
        sick_cloud.script("n", Scenario(errors=range(1, 100)))
        sick_env = {"CLOUDSDK_API_ENDPOINT_OVERRIDES_TPU": sick_cloud.url}
        stack.enter_context(recording())
        real = Program(real_env, real_cloud, folder / "real", labels)
        fake = Program(fake_env, fake_cloud, folder / "fake", labels)
        sick = [Program(env | sick_env, sick_cloud, folder / "sick", labels) for env in (fake_env, real_env)]
        outage = [Step("outage", lambda it: it.describe("n"))]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            pool.submit(run_all, [Step("create", creates("n")), *outage], sick[0]).result()
            work = [(TPU_STEPS, real), (STORAGE_STEPS, real), (outage, sick[1]), (TPU_STEPS + STORAGE_STEPS, fake)]
            for done in [pool.submit(run_all, *each) for each in work]:
                done.result()
        real.results["outage"], fake.results["outage"] = (each.results["outage"] for each in reversed(sick))
        yield real, fake


@pytest.mark.soak
@pytest.mark.parametrize("step", TPU_STEPS + STORAGE_STEPS, ids=lambda step: step.label)
def test_launch_gets_what_it_wants_and_both_programs_answer_alike(both, step):
    real, fake = (program.results[step.label] for program in both)
    assert real.value == step.expected, real.calls
    assert fake.value == step.expected, fake.calls
    assert real.calls[-1].error.startswith(step.error)
    assert bool(real.calls[-1].error) == bool(step.error)
    for one, other in zip(real.calls, fake.calls, strict=True):
        assert one.code == other.code, one.err
        assert one.error == other.error
        assert read(one) == read(other)


def read(call: Call) -> object:
    """The output in a form that does not depend on the time, nor on which worker was the first."""
    if call.words[-1] == "--format=value(generation)":
        return bool(re.fullmatch(r"\d+\n", call.out))
    if "--format=json" in call.words:
        shown = json.loads(call.out) if call.out else {}
        if isinstance(shown, dict):
            shown.pop("metadata", None)  # the real one's ssh leaves a key there
        return shown
    return sorted(call.out.splitlines()) if "ssh" in call.words else call.out


@pytest.mark.soak
def test_both_programs_send_the_same_requests(both):
    """ssh aside, whose real one also leaves a key and asks for host names."""
    real, fake = (sorted(each for each in it.cloud.log if each.command and "ssh" not in each.command) for it in both)
    assert real == fake


@pytest.mark.soak
def test_nothing_that_launch_and_the_fake_program_know_was_left_out(both):
    """The other tests cannot give a command or a flag that the real program was not asked to take."""
    calls = [call for result in both[0].results.values() for call in result.calls]
    assert {call.command for call in calls} == set(fake_gcloud.COMMANDS)
    given = {(call.command, word.partition("=")[0]) for call in calls for word in call.words if word.startswith("--")}
    source = inspect.getsource(fake_gcloud)
    assert {flag for _, flag in given} == set(re.findall(r'"(--[a-z-]+)=?"', source))
    assert {call.command for call in calls if call.code > 1} == set()


@pytest.mark.soak
def test_ssh_hides_that_it_reached_nobody(both):
    for program in both:
        [call] = program.results["to a lost slice"].calls
        assert call.code == 0
        assert "with a total of 0 workers" in call.err
        assert "Traceback" in call.err


@pytest.mark.soak
def test_an_outage_is_no_status_word_but_an_http_error(both):
    for program in both:
        value, [call] = program.results["outage"]
        assert value.state is State.UNKNOWN
        assert call.error.startswith("HttpError accessing <http://127.0.0.1:")
        assert "'status': 503}>, content <{" in call.error
        assert "This may be due to network connectivity issues." in call.error
