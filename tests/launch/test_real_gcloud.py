"""The contract with gcloud: the installed program takes every command line that launch/ gives, and the fake one answers alike.

launch's own functions are driven, with the real program and with the fake one, each against a fake cloud of its own; what
they hand to gcloud is recorded.
"""

import concurrent.futures
import contextlib
import dataclasses
import inspect
import json
import re
from collections.abc import Callable, Iterator

import pytest

from launch import run as run_lib
from launch import worker
from launch.backends.queued_resources import Backend
from launch.records import State
from tests.launch import conftest, fake_gcloud, fake_storage, scenario
from tests.launch.cloud import FakeCloud
from tests.launch.contract import (
    COMMAND,
    PROGRAM,
    QUOTED,
    SPECS,
    ZONE,
    Call,
    Program,
    Step,
    emulator_with_conditions,
    recording,
    run_all,
)
from tests.launch.scenario import Scenario

SCENARIOS = {
    "full": Scenario(create_error=scenario.CAPACITY),
    "denied": Scenario(create_error=scenario.DENIED),
    "reserved": Scenario(create_error=scenario.RESERVATION),
    "invalid": Scenario(create_error=scenario.INVALID),
    "failed": Scenario(waiting=0, provisioning=0, failed=scenario.CAPACITY),
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
    Step("failed", sees("failed"), (State.BROKEN, True, 0, "RESOURCE_EXHAUSTED: " + scenario.CAPACITY.message)),
]  # fmt: skip

NO_OBJECTS = "The following URLs matched no objects or files:"
STORAGE_STEPS = [
    Step(
        "preflight",
        Program.preflight,
        [
            "account        FAILED: nobody is logged in. Wanted: gcloud auth login",
            "project        p",
            f"{ZONE}  v5litepod-16",
            f"{ZONE}  v2-alpha-tpuv5-lite",
            "bucket         in the region of the zones",
            "not ready",
        ],
    ),
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
    source = inspect.getsource(fake_gcloud) + inspect.getsource(fake_storage)
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
