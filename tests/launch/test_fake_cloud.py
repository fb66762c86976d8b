"""The fakes do what they say. What they share with the real gcloud is checked in test_real_gcloud.py."""

import concurrent.futures
import json
import signal
import subprocess

import pytest

from tests.launch.cloud import CAPACITY, EXISTS, QUOTA, UNAVAILABLE, FakeCloud, Resource, Scenario
from tests.waiting import wait_until

PLACE = ("--project=p", "--zone=z-a")
CREATE = (
    "--accelerator-type=v5litepod-16",
    "--runtime-version=v2-alpha-tpuv5-lite",
    "--spot",
    "--valid-until-duration=21600s",
    "--labels=run=r1,slice=0",
    "--scopes=https://www.googleapis.com/auth/cloud-platform",
    "--async",
    "--quiet",
)


@pytest.fixture
def gcloud(gcloud_env):
    """Runs the fake gcloud: gcloud("storage", "cat", …) -> CompletedProcess."""

    def run(*words, content=None, timeout=120):
        return subprocess.run(
            ["gcloud", *words], env=gcloud_env, input=content, capture_output=True, text=True, timeout=timeout
        )

    return run


@pytest.fixture
def slices(gcloud):
    return Slices(gcloud)


class Slices:
    """The commands on queued resources, in short."""

    def __init__(self, gcloud):
        self.gcloud = gcloud

    def on(self, verb, name, *flags, zone="z-a"):
        return self.gcloud("compute", "tpus", "queued-resources", verb, name, "--project=p", f"--zone={zone}", *flags)

    def create(self, name="run-0", zone="z-a"):
        return self.on("create", name, f"--node-id={name}", *CREATE, zone=zone)

    def delete(self, name="run-0", zone="z-a"):
        return self.on("delete", name, "--force", "--async", "--quiet", zone=zone)

    def state(self, name="run-0", zone="z-a"):
        done = self.on("describe", name, "--format=json", zone=zone)
        return json.loads(done.stdout)["state"]["state"] if done.returncode == 0 else error(done)

    def node(self, name="run-0"):
        done = self.gcloud("compute", "tpus", "tpu-vm", "describe", name, *PLACE, "--format=json")
        return json.loads(done.stdout) if done.returncode == 0 else error(done)

    def ssh(self, command, name="run-0", worker="all"):
        flags = ("--node=all", f"--worker={worker}", "--batch-size=all", "--quiet", "--ssh-flag=-oConnectTimeout=20")
        return self.on("ssh", name, *flags, f"--command={command}")

    def active(self, name="run-0"):
        assert self.create(name).returncode == 0
        for _ in range(20):
            if self.state(name) == "ACTIVE":
                return
        pytest.fail("never ACTIVE")


def error(done):
    """The error's text without the command's name."""
    assert done.returncode == 1
    first = next(line for line in done.stderr.splitlines() if line.startswith("ERROR: "))
    return first.partition(") ")[2].partition(". This command is")[0]


def test_a_queued_resource_moves_by_one_step_for_each_poll(cloud, slices):
    cloud.script("run-0", Scenario(creating=1, waiting=2, provisioning=1, preempted=2, deleting=2))
    assert slices.state() == "NOT_FOUND: Resource 'projects/p/locations/z-a/queuedResources/run-0' was not found"
    slices.create()
    assert slices.node().startswith("NOT_FOUND")
    states = [slices.state() for _ in range(7)]
    assert states == ["CREATING", *2 * ["WAITING_FOR_RESOURCES"], "PROVISIONING", "ACTIVE", "ACTIVE", "SUSPENDED"]
    assert slices.node()["state"] == "PREEMPTED"
    slices.delete()
    assert [slices.state(), slices.state()] == ["DELETING", "DELETING"]
    assert slices.state().startswith("NOT_FOUND")
    assert slices.delete().returncode == 1
    assert cloud.resources() == []
    assert cloud.violations == []


def test_an_active_slice_has_workers_at_their_addresses(cloud, slices):
    cloud.hosts = 3
    slices.active()
    node = slices.node()
    assert (node["state"], node["health"]) == ("READY", "HEALTHY")
    assert [end["ipAddress"] for end in node["networkEndpoints"]] == ["127.0.0.10", "127.0.0.11", "127.0.0.12"]
    assert node["labels"] == {"run": "r1", "slice": "0"}


def test_each_create_has_its_own_scenario_and_the_last_remains(cloud, slices):
    cloud.script("run-0", Scenario(create_error=CAPACITY), Scenario(create_error=QUOTA), Scenario(failed=CAPACITY))
    assert error(slices.create()).startswith("RESOURCE_EXHAUSTED: There is no more capacity")
    assert error(slices.create(zone="z-b")).startswith("RESOURCE_EXHAUSTED: Quota")
    slices.create()
    assert [slices.state() for _ in range(3)] == ["WAITING_FOR_RESOURCES", "PROVISIONING", "FAILED"]
    shown = json.loads(slices.on("describe", "run-0", "--format=json").stdout)
    assert shown["state"]["failedData"]["error"]["code"] == 8
    assert cloud.creations("run-0") == 1


def test_a_preemption_may_show_in_the_node_alone(cloud, slices):
    cloud.script("run-0", Scenario(preempted=1, node_only=True))
    slices.active()
    assert slices.state() == "ACTIVE"
    assert slices.node()["state"] == "PREEMPTED"
    assert cloud.resources() == [Resource("z-a", "run-0", "ACTIVE", "PREEMPTED")]


def test_errors_of_the_server(cloud, slices):
    cloud.script("run-0", Scenario(create_error=UNAVAILABLE, made=True, errors=(1, 3)))
    done = slices.create()
    assert done.returncode == 1
    assert "HttpError accessing" in done.stderr
    assert "'status': 503" in done.stderr
    first = slices.on("describe", "run-0", "--format=json")
    assert first.returncode == 1
    assert '"status": "UNAVAILABLE"' in first.stderr
    assert slices.state() == "PROVISIONING"
    listed = slices.gcloud("compute", "tpus", "queued-resources", "list", "--project=p", "--zone=-", "--format=json")
    assert [item["name"].rpartition("/")[2] for item in json.loads(listed.stdout)] == ["run-0"]
    assert cloud.violations == []


def test_violations(cloud, slices):
    slices.create()
    assert error(slices.create()).startswith("ALREADY_EXISTS")
    assert len(cloud.violations) == 1
    slices.create(zone="z-b")
    assert len(cloud.violations) == 2
    cloud.script("other", Scenario(create_error=UNAVAILABLE, made=True))
    slices.create("other")
    slices.create("other")  # nobody knows whether it is there: no violation
    assert len(cloud.violations) == 2
    slices.delete("other")
    assert len(cloud.violations) == 3


def test_commands_run_on_each_worker_in_an_environment_of_its_own(cloud, slices, tmp_path):
    slices.active()
    done = slices.ssh("echo worker $TPU_WORKER_ID; pwd > here; env | cut -d= -f1 > names; command -v gcloud >> names")
    assert done.returncode == 0
    assert sorted(done.stdout.splitlines()) == ["worker 0", "worker 1"]
    for worker in range(2):
        home = tmp_path / f"hosts/run-0/worker-{worker}"
        assert (home / "here").read_text().strip() == str(home)
        names = (home / "names").read_text()
        assert "XDG_CACHE_HOME" not in names
        assert str(tmp_path / "bin/gcloud") in names
    assert slices.ssh("echo $TPU_WORKER_ID", worker="1").stdout == "1\n"
    failed = slices.ssh('test "$TPU_WORKER_ID" = 0 || exit 7')
    assert failed.returncode == 7
    assert "worker 1 failed with exit status 7" in failed.stderr


def test_failure_of_a_worker_beyond_the_number_asked_for_is_lost(cloud, slices):
    cloud.hosts = 4
    slices.active()
    done = slices.ssh("exit $TPU_WORKER_ID", worker="1,3")
    assert done.returncode == 1
    done = slices.ssh("test $TPU_WORKER_ID = 1", worker="1,3")
    assert done.returncode == 0
    assert "IndexError" in done.stderr


def test_no_worker_is_reached_on_a_lost_node_and_the_exit_status_is_0(cloud, slices):
    slices.active()
    cloud.preempt("run-0", node_only=True)
    done = slices.ssh("echo hello")
    assert (done.returncode, done.stdout) == (0, "")
    assert "Traceback" in done.stderr
    assert "0 workers" in done.stderr


def test_exit_status_255_and_lost_connections_run_the_command_again(cloud, slices, tmp_path):
    cloud.script("run-0", Scenario(dropped={0: 1}, unreachable={1: 2}))
    slices.active()
    done = slices.ssh("echo $TPU_WORKER_ID; echo x >> ran")
    assert (done.returncode, done.stdout) == (255, "0\n")
    assert (tmp_path / "hosts/run-0/worker-0/ran").read_text() == "x\nx\n"
    assert slices.ssh("echo $TPU_WORKER_ID").returncode == 255
    assert sorted(slices.ssh("echo $TPU_WORKER_ID").stdout) == ["\n", "\n", "0", "1"]
    assert slices.ssh("echo x >> again; exit 255", worker="0").returncode == 255
    assert (tmp_path / "hosts/run-0/worker-0/again").read_text() == "x\n" * 3


def test_the_processes_of_a_lost_slice_die_and_its_successor_has_empty_homes(cloud, slices, tmp_path):
    slices.active()
    slices.active("other-0")
    start = "nohup env -i sleep 600 > /dev/null 2>&1 < /dev/null & echo started"
    assert slices.ssh(start).stdout == "started\n" * 2
    assert slices.ssh(start, name="other-0").stdout == "started\n" * 2
    assert len(cloud.processes("run-0", 0)) == 1
    cloud.preempt("run-0")
    assert cloud.processes("run-0", 0) == cloud.processes("run-0", 1) == []
    slices.delete()
    wait_until(lambda: slices.state().startswith("NOT_FOUND"))
    slices.active()
    assert slices.ssh("ls").stdout == ""
    assert (tmp_path / "hosts/run-0.1/worker-0").exists()
    assert len(cloud.processes("other-0", 0)) == 1


def test_a_machine_may_delete_its_own_slice(cloud, slices):
    cloud.script("run-0", Scenario(deleting=0))
    slices.active()
    flags = "--project=p --zone=z-a --force --async --quiet"
    slices.ssh(f"sleep 600 & gcloud compute tpus queued-resources delete run-0 {flags}; sleep 600", worker="0")
    assert slices.state().startswith("NOT_FOUND")
    wait_until(lambda: cloud.processes("run-0", 0) == [])


def test_a_preemption_with_notice_sends_sigterm_first(cloud, slices, tmp_path):
    slices.active()
    catch = "trap 'echo saved > saved; exit 0' TERM; echo up > up; while :; do sleep 0.05; done"
    slices.ssh(f"setsid bash -c {json.dumps(catch)} > /dev/null 2>&1 < /dev/null &", worker="1")
    home = tmp_path / "hosts/run-0/worker-1"
    wait_until((home / "up").exists)
    cloud.preempt("run-0", notice=60)
    assert (home / "saved").read_text() == "saved\n"
    assert cloud.processes("run-0", 1) == []


def test_a_command_that_a_signal_ended_is_run_again(cloud, slices, tmp_path):
    slices.active()
    assert slices.ssh("echo x >> ran; kill -9 $$", worker="1").returncode == 255
    assert (tmp_path / "hosts/run-0/worker-1/ran").read_text() == "x\n" * 3


def test_a_command_is_not_run_again_on_a_machine_that_was_lost(cloud, slices, tmp_path):
    slices.active()
    home = tmp_path / "hosts/run-0/worker-0"
    with concurrent.futures.ThreadPoolExecutor() as pool:
        running = pool.submit(slices.ssh, "echo x >> ran; sleep 600")
        try:
            wait_until((home / "ran").exists)
        finally:
            cloud.preempt("run-0")
        assert running.result().returncode == 255
    assert (home / "ran").read_text() == "x\n"


def test_a_create_that_was_repeated_says_that_it_exists(cloud, slices):
    cloud.script("run-0", Scenario(create_error=EXISTS, made=True))
    assert error(slices.create()).startswith("ALREADY_EXISTS")
    assert slices.state() == "WAITING_FOR_RESOURCES"
    assert cloud.violations == []


def test_a_storage_outage(gcloud, tmp_path):
    down = tmp_path / "buckets/.down"
    down.touch()
    assert error(gcloud("storage", "cat", "gs://bucket/x")) == "HTTPError 503: Service Unavailable"
    down.unlink()
    assert "matched no objects" in error(gcloud("storage", "cat", "gs://bucket/x"))


def test_objects(gcloud, tmp_path):
    uri = "gs://bucket/a/x.json"
    assert error(gcloud("storage", "objects", "describe", uri, "--format=value(generation)")).endswith(
        "not found: 404."
    )
    assert gcloud("storage", "cp", "--if-generation-match=0", "-", uri, content="one").returncode == 0
    first = gcloud("storage", "objects", "describe", uri, "--format=value(generation)").stdout.strip()
    assert "HTTPError 412" in error(gcloud("storage", "cp", "--if-generation-match=0", "-", uri, content="two"))
    assert gcloud("storage", "cp", f"--if-generation-match={first}", "-", uri, content="two").returncode == 0
    assert "HTTPError 412" in error(gcloud("storage", "cp", f"--if-generation-match={first}", "-", uri, content="3"))
    assert int(gcloud("storage", "objects", "describe", uri, "--format=value(generation)").stdout) > int(first)
    assert gcloud("storage", "cat", uri).stdout == "two"
    assert (tmp_path / "buckets/bucket/a/x.json").read_text() == "two"
    missing = gcloud("storage", "cat", uri, "gs://bucket/none", "gs://bucket/a/*.json")
    assert (missing.returncode, missing.stdout) == (1, "twotwo")
    assert missing.stderr.endswith("The following URLs matched no objects or files:\ngs://bucket/none\n")


def test_only_one_of_many_writers_makes_an_object(gcloud, gcloud_env):
    command = ["gcloud", "storage", "cp", "--if-generation-match=0", "-", "gs://bucket/lease"]
    writers = [
        subprocess.Popen(command, env=gcloud_env, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in range(8)
    ]
    for number, writer in enumerate(writers):
        writer.communicate(str(number).encode())
    won = [number for number, writer in enumerate(writers) if writer.returncode == 0]
    assert len(won) == 1
    assert gcloud("storage", "cat", "gs://bucket/lease").stdout == str(won[0])


@pytest.mark.parametrize(
    "words",
    [
        ("compute", "tpus", "queued-resources", "create", "n", *PLACE, "--node-id=n", *CREATE, "--foo=1"),
        ("compute", "tpus", "queued-resources", "create", "n", *PLACE, "--node-id=n", *CREATE, "--reserved"),
        ("compute", "tpus", "queued-resources", "describe", "n", "--project=p", "--format=json"),
        ("compute", "tpus", "queued-resources", "frob"),
        ("compute", "tpus", "tpu-vm", "delete", "n", *PLACE),
        ("storage", "rm", "gs://bucket/a"),
    ],
)
def test_what_is_not_in_use_is_refused(gcloud, words):
    done = gcloud(*words)
    assert done.returncode == 2
    assert done.stderr.startswith("ERROR: (gcloud")


def test_a_stopped_cloud_leaves_nothing_running(tmp_path, gcloud_env):
    with FakeCloud(homes=tmp_path / "hosts") as other:
        home = tmp_path / "hosts/x-0/worker-0"
        home.mkdir(parents=True)
        other._made["x-0"] = 1
        child = subprocess.Popen(["sleep", "600"], cwd=home)
    assert child.wait(120) == -signal.SIGKILL
