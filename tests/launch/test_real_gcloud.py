"""The contract with gcloud: the installed program accepts our command lines, and the fake one answers them alike.

Both run the same commands against a fake cloud of their own. Storage is an emulator for the real one. It ignores the
condition of a resumable upload, in which Cloud Storage and gcloud agree; a small proxy before it looks at that.
"""

import concurrent.futures
import contextlib
import http.server
import json
import re
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from tests import gcs_emulator
from tests.launch import cloud, conftest
from tests.launch.cloud import FakeCloud, Scenario

QUEUED = ("compute", "tpus", "queued-resources")
PLACE = ("--project=p", "--zone=z-a")
SHAPE = ("--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite")
REST = (
    "--valid-until-duration=21600s",
    "--labels=k=v,k2=v2",
    "--scopes=https://www.googleapis.com/auth/cloud-platform",
)
FULL = ("--service-account=sa@p.iam.gserviceaccount.com", "--network=n", "--subnetwork=s", "--internal-ips")
KEEP_ALIVE = (
    "--ssh-flag=-oServerAliveInterval=15",
    "--ssh-flag=-oServerAliveCountMax=4",
    "--ssh-flag=-oConnectTimeout=20",
)
# Quotes, blanks, a newline and what a shell would expand.
COMMAND = "printf '%s|' \"two  blanks\" '$HOME' \"it's\" '' 'a\nb'; echo worker $TPU_WORKER_ID"


def create(name: str, *kind: str) -> tuple[str, ...]:
    return (*QUEUED, "create", name, *PLACE, *SHAPE, f"--node-id={name}", *kind, *REST, "--async", "--quiet")


def describe(name: str) -> tuple[str, ...]:
    return (*QUEUED, "describe", name, *PLACE, "--format=json")


def node(name: str) -> tuple[str, ...]:
    return ("compute", "tpus", "tpu-vm", "describe", name, *PLACE, "--format=json")


def delete(name: str) -> tuple[str, ...]:
    return (*QUEUED, "delete", name, *PLACE, "--force", "--async", "--quiet")


def ssh(name: str, command: str, worker: str = "all", *route: str) -> tuple[str, ...]:
    flags = ("--node=all", f"--worker={worker}", "--batch-size=all", "--quiet", *route, *KEEP_ALIVE)
    return (*QUEUED, "ssh", name, *PLACE, *flags, f"--command={command}")


LIST = (*QUEUED, "list", "--project=p", "--zone=-", "--format=json")
TYPES = ("compute", "tpus", "accelerator-types", "list", *PLACE, "--format=json")
VERSIONS = ("compute", "tpus", "tpu-vm", "versions", "list", *PLACE, "--format=json")


class Step(NamedTuple):
    """A command that both programs run.

    Attributes:
      label: the test's name, and the key of the result.
      words: the command line after `gcloud`; "{G}" stands for the generation that the last `describe` printed.
      expected: what the error's text begins with, "" where the command succeeds.
      content: on standard input.
      before: done with the cloud beforehand.
    """

    label: str
    words: tuple[str, ...]
    expected: str = ""
    content: str | None = None
    before: Callable[[FakeCloud], None] | None = None


SCENARIOS = {
    "n": Scenario(waiting=1, provisioning=1, deleting=1),
    "full": Scenario(create_error=cloud.CAPACITY),
    "denied": Scenario(create_error=cloud.DENIED),
    "reserved": Scenario(create_error=cloud.RESERVATION),
    "failed": Scenario(waiting=0, provisioning=0, failed=cloud.CAPACITY),
}

TPU_STEPS = [
    Step("no list", LIST),
    Step("describe nothing", describe("n"), "NOT_FOUND: Resource 'projects/p/locations/z-a/queuedResources/n'"),
    Step("create", create("n", "--spot")),
    Step("create again", create("n", "--spot"), "ALREADY_EXISTS: "),
    Step("waiting", describe("n")),
    Step("no node", node("n"), "NOT_FOUND: Resource 'projects/p/locations/z-a/nodes/n'"),
    Step("provisioning", describe("n")),
    Step("node is being made", node("n")),
    Step("active", describe("n")),
    Step("node", node("n")),
    Step("create reserved", create("m", "--reserved", *FULL)),
    Step("list", LIST),
    Step("ssh", ssh("n", COMMAND)),
    Step("ssh to some", ssh("n", COMMAND, "1,3", "--tunnel-through-iap")),
    Step("ssh to one", ssh("n", "exit 7", "1"), "exit status 7"),
    Step("ssh fails on some", ssh("n", 'test "$TPU_WORKER_ID" = 0 || exit 9'), "exit status 9"),
    Step("ssh fails beyond the number", ssh("n", "test $TPU_WORKER_ID = 1", "1,3")),
    Step("suspended", describe("n"), before=lambda it: it.preempt("n")),
    Step("node preempted", node("n")),
    Step("ssh to a preempted node", ssh("n", COMMAND)),
    Step("delete", delete("n")),
    Step("deleting", describe("n")),
    Step("deleted", describe("n"), "NOT_FOUND: "),
    Step("delete nothing", delete("n"), "NOT_FOUND: "),
    Step("no capacity", create("full", "--spot"), "RESOURCE_EXHAUSTED: There is no more capacity"),
    Step("denied", create("denied"), "PERMISSION_DENIED: "),
    Step("no reservation", create("reserved", "--reserved"), "FAILED_PRECONDITION: Insufficient reserved capacity"),
    Step("create to fail", create("failed", "--spot")),
    Step("failed", describe("failed")),
    Step("accelerator types", TYPES),
    Step("versions", VERSIONS),
    Step("project", ("config", "get", "project")),
    Step("account", ("auth", "list", "--filter=status:ACTIVE", "--format=value(account)")),
]

URI = f"gs://{gcs_emulator.BUCKET}/launch/r"
GENERATION = ("storage", "objects", "describe", f"{URI}/lease", "--format=value(generation)")
LOCATION = "--format=value(location)"

STORAGE_STEPS = [
    Step("cat nothing", ("storage", "cat", f"{URI}/lease"), "The following URLs matched no objects or files:"),
    Step("no generation", GENERATION, "gs://bucket/launch%2Fr%2Flease not found: 404."),
    Step("upload new", ("storage", "cp", "--if-generation-match=0", "-", f"{URI}/lease"), content="one"),
    Step("upload new again", ("storage", "cp", "--if-generation-match=0", "-", f"{URI}/lease"), "HTTPError 412", "two"),
    Step("generation", GENERATION),
    Step("upload over it", ("storage", "cp", "--if-generation-match={G}", "-", f"{URI}/lease"), content="three"),
    Step("upload too late", ("storage", "cp", "--if-generation-match={G}", "-", f"{URI}/lease"), "HTTPError 412", "4"),
    Step("cat", ("storage", "cat", f"{URI}/lease")),
    Step("upload", ("storage", "cp", "-", f"{URI}/host-1.json"), content='{"worker": 1}'),
    Step("upload a file", ("storage", "cp", "{F}/local", f"{URI}/host-0.json")),
    Step(
        "upload no file", ("storage", "cp", "{F}/none", f"{URI}/x"), "The following URLs matched no objects or files:"
    ),
    Step("cat some", ("storage", "cat", f"{URI}/none", f"{URI}/host-*.json"), "The following URLs matched no objects"),
    Step("download", ("storage", "cp", f"{URI}/host-0.json", "{F}/new/down")),
    Step(
        "download nothing", ("storage", "cp", f"{URI}/none", "{F}/x"), "The following URLs matched no objects or files:"
    ),
    Step("ls", ("storage", "ls", "gs://bucket/launch/")),
    Step("ls objects", ("storage", "ls", f"{URI}/")),
    Step("ls nothing", ("storage", "ls", f"{URI}/none"), "One or more URLs matched no objects."),
    Step("location", ("storage", "buckets", "describe", "gs://bucket", LOCATION)),
    Step("no bucket", ("storage", "buckets", "describe", "gs://none", LOCATION), "gs://none not found: 404."),
    Step("cat in no bucket", ("storage", "cat", "gs://none/x"), "gs://none not found: 404."),
]


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The error's text, without the command's name."""
        found = re.search(r"^ERROR: (?:\(\S+\) )?(.*)", self.err, re.M | re.S)
        return found[1].strip() if found else ""


def run(words: tuple[str, ...], env: dict[str, str], content: str | None = None) -> Result:
    stdin = {"input": content} if content is not None else {"stdin": subprocess.DEVNULL}
    done = subprocess.run(["gcloud", *words], env=env, capture_output=True, text=True, timeout=120, **stdin)
    return Result(done.returncode, done.stdout, done.stderr)


def run_all(steps: list[Step], env: dict[str, str], cloud: FakeCloud, folder) -> dict[str, Result]:
    (folder / "local").write_text('{"worker": 0}')
    results: dict[str, Result] = {}
    generation = ""
    for step in steps:
        if step.before is not None:
            step.before(cloud)
        words = tuple(word.replace("{G}", generation).replace("{F}", str(folder)) for word in step.words)
        results[step.label] = result = run(words, env, step.content)
        if step.label == "generation":
            generation = result.out.strip()
    return results


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


class Both(NamedTuple):
    """The results of all steps, by label, and the requests that reached each cloud."""

    real: dict[str, Result]
    fake: dict[str, Result]
    real_log: list[cloud.Request]
    fake_log: list[cloud.Request]
    outage: Result


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Iterator[Both]:
    """Runs everything at once: a call of the real program takes a second, one that meets an outage half a minute."""
    folder = tmp_path_factory.mktemp("contract")
    with contextlib.ExitStack() as stack:
        clouds = [stack.enter_context(FakeCloud(hosts=4, homes=folder / "hosts")) for _ in range(3)]
        for each in clouds:
            for name, scenario in SCENARIOS.items():
                each.script(name, scenario)
        real_cloud, fake_cloud, sick_cloud = clouds
        storage_url = stack.enter_context(emulator_with_conditions())
        real_env = conftest.real_environment(real_cloud, folder)
        real_env["CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE"] = f"{storage_url}/storage/v1/"
        fake_env = conftest.fake_environment(fake_cloud, folder)
        del fake_env["FAKE_GCLOUD_ACCOUNT"]  # the real one has none here
        sick_env = {**real_env, "CLOUDSDK_API_ENDPOINT_OVERRIDES_TPU": sick_cloud.url}
        sick_cloud.script("n", Scenario(errors=range(1, 100)))
        assert run(create("n"), {**fake_env, "CLOUDSDK_API_ENDPOINT_OVERRIDES_TPU": sick_cloud.url}).code == 0
        folders = [folder / "real-files", folder / "real-objects", folder / "fake-files"]
        for each in folders:
            each.mkdir()
        with concurrent.futures.ThreadPoolExecutor() as pool:
            outage = pool.submit(run, describe("n"), sick_env)
            real = pool.submit(run_all, TPU_STEPS, real_env, real_cloud, folders[0])
            real_storage = pool.submit(run_all, STORAGE_STEPS, real_env, real_cloud, folders[1])
            fake = run_all(TPU_STEPS + STORAGE_STEPS, fake_env, fake_cloud, folders[2])
        results = real.result() | real_storage.result()
        yield Both(results, fake, real_cloud.log, fake_cloud.log, outage.result())


pytestmark = pytest.mark.slow


@pytest.mark.parametrize("step", TPU_STEPS + STORAGE_STEPS, ids=lambda step: step.label)
def test_both_programs_answer_alike(both, step):
    real, fake = both.real[step.label], both.fake[step.label]
    assert real.code == fake.code, real.err
    assert read(step, real.out) == read(step, fake.out)
    if step.expected.startswith("exit status"):
        assert real.code == int(step.expected.split()[-1])
    elif step.expected:
        assert real.code == 1
        assert real.error.startswith(step.expected)
        assert real.error.replace("real-objects", "fake-files") == fake.error
    else:
        assert real.code == 0, real.err


def read(step: Step, out: str) -> object:
    """The output in a form that does not depend on the time, nor on which worker was the first."""
    if step.label == "generation":
        return bool(re.fullmatch(r"\d+\n", out))
    if "--format=json" in step.words:
        shown = json.loads(out) if out else {}
        if isinstance(shown, dict):
            shown.pop("metadata", None)  # the real one's ssh leaves a key there
        return shown
    return sorted(out.splitlines()) if "ssh" in step.words else out


def test_what_is_read_from_the_output_is_there(both):
    waiting, active = json.loads(both.real["waiting"].out), json.loads(both.real["active"].out)
    assert waiting["state"]["state"] == "WAITING_FOR_RESOURCES"
    assert active["state"]["state"] == "ACTIVE"
    assert [spec["node"]["labels"] for spec in active["tpu"]["nodeSpec"]] == [{"k": "v", "k2": "v2"}]
    ready = json.loads(both.real["node"].out)
    assert (ready["state"], ready["health"]) == ("READY", "HEALTHY")
    assert [end["ipAddress"] for end in ready["networkEndpoints"]] == [f"127.0.0.{10 + worker}" for worker in range(4)]
    assert len(json.loads(both.real["list"].out)) == 2
    failed = json.loads(both.real["failed"].out)["state"]
    assert failed["failedData"]["error"]["code"] == 8


def test_both_programs_send_the_same_requests(both):
    """ssh aside, whose real one also leaves a key and asks for host names."""

    def without_ssh(log):
        return [entry for entry in log if entry.command and "ssh" not in entry.command]

    assert without_ssh(both.real_log) == without_ssh(both.fake_log)


def test_commands_reach_the_workers_byte_for_byte(both):
    quoted = "two  blanks|$HOME|it's||a\nb|worker "
    assert sorted(both.real["ssh"].out) == sorted("".join(f"{quoted}{worker}\n" for worker in range(4)))
    assert sorted(both.real["ssh to some"].out) == sorted("".join(f"{quoted}{worker}\n" for worker in (1, 3)))


@pytest.mark.parametrize("which", ["real", "fake"])
def test_ssh_hides_failures(both, which):
    results = getattr(both, which)
    beyond, lost = results["ssh fails beyond the number"], results["ssh to a preempted node"]
    assert beyond.code == lost.code == 0
    assert "IndexError" in beyond.err
    assert "with a total of 0 workers" in lost.err
    assert "Traceback" in lost.err


def test_an_outage_is_no_status_word_but_an_http_error(both, tmp_path):
    with FakeCloud() as sick:
        sick.script("n", Scenario(errors=range(1, 100)))
        env = conftest.fake_environment(sick, tmp_path)
        run(create("n"), env)
        fake = run(describe("n"), env)
    for result in (both.outage, fake):
        assert result.code == 1
        assert result.error.startswith("HttpError accessing <http://127.0.0.1:")
        assert "'status': 503}>, content <{" in result.error
        assert "This may be due to network connectivity issues." in result.error
