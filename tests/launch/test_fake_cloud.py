"""What the fakes have beyond the real gcloud, which test_real_gcloud.py compares; test_scenarios.py uses the rest."""

import json
import subprocess

import pytest

from tests.launch.scenario import UNAVAILABLE, Scenario
from tests.waiting import wait_until

CREATE = (
    "--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite", "--valid-until-duration=21600s",
    "--labels=run=r1,slice=0", "--scopes=https://www.googleapis.com/auth/cloud-platform", "--async", "--quiet",
)  # fmt: skip


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
        return json.loads(done.stdout)["state"]["state"] if done.returncode == 0 else "none"

    def ssh(self, command, name="run-0", worker="all"):
        flags = ("--node=all", f"--worker={worker}", "--batch-size=all", "--quiet", "--ssh-flag=-oConnectTimeout=20")
        return self.on("ssh", name, *flags, f"--command={command}")

    def active(self, name="run-0"):
        assert self.create(name).returncode == 0
        for _ in range(20):
            if self.state(name) == "ACTIVE":
                return
        pytest.fail("never ACTIVE")


def test_violations(cloud, slices):
    slices.create()
    assert "ALREADY_EXISTS" in slices.create().stderr
    assert len(cloud.violations) == 1
    slices.create(zone="z-b")
    assert len(cloud.violations) == 2
    cloud.script("other", Scenario(create_error=UNAVAILABLE, made=True))
    slices.create("other")
    slices.create("other")  # nobody knows whether it is there: no violation
    assert len(cloud.violations) == 2
    slices.delete("other")
    assert len(cloud.violations) == 3


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
    wait_until(lambda: slices.state() == "none")
    slices.active()
    assert slices.ssh("ls").stdout == ""
    assert (tmp_path / "hosts/run-0.1/worker-0").exists()
    assert len(cloud.processes("other-0", 0)) == 1


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


def test_a_queued_resource_moves_by_one_step_for_each_poll(cloud, slices):
    cloud.script("run-0", Scenario(creating=1, waiting=2, provisioning=1, preempted=2, deleting=2))
    assert slices.state() == "none"
    slices.create()
    states = [slices.state() for _ in range(7)]
    assert states == ["CREATING", *2 * ["WAITING_FOR_RESOURCES"], "PROVISIONING", "ACTIVE", "ACTIVE", "SUSPENDED"]
    slices.delete()
    assert [slices.state() for _ in range(3)] == ["DELETING", "DELETING", "none"]
    assert cloud.resources() == []
    assert cloud.violations == []


@pytest.mark.parametrize(
    ("scenario", "command", "times"),
    [
        (Scenario(dropped={0: 1}), "true", 2),
        (Scenario(), "exit 255", 3),
        (Scenario(), "kill -9 $$", 3),
        (Scenario(), "exit 7", 1),
    ],
    ids=["the connection is lost", "exit status 255", "a signal", "another exit status"],
)
def test_a_command_may_run_more_than_once(cloud, slices, tmp_path, scenario, command, times):
    cloud.script("run-0", scenario)
    slices.active()
    slices.ssh(f"echo x >> ran; {command}", worker="0")
    assert (tmp_path / "hosts/run-0/worker-0/ran").read_text() == "x\n" * times


def test_a_machine_may_delete_its_own_slice(cloud, slices):
    cloud.script("run-0", Scenario(deleting=0))
    slices.active()
    flags = "--project=p --zone=z-a --force --async --quiet"
    slices.ssh(f"sleep 600 & gcloud compute tpus queued-resources delete run-0 {flags}; sleep 600", worker="0")
    assert slices.state() == "none"
    wait_until(lambda: cloud.processes("run-0", 0) == [])


def test_a_preemption_with_notice_sends_sigterm_first(cloud, slices, tmp_path):
    slices.active()
    catch = "trap 'echo saved > saved; exit 0' TERM; echo up > up; while :; do sleep 0.05; done"
    slices.ssh(f"setsid bash -c {json.dumps(catch)} > /dev/null 2>&1 < /dev/null &", worker="1")
    home = tmp_path / "hosts/run-0/worker-1"
    wait_until((home / "up").exists)
    cloud.kill("run-0", notice=60)
    assert (home / "saved").read_text() == "saved\n"
    assert cloud.processes("run-0", 1) == []


@pytest.mark.parametrize(
    "words",
    ["compute tpus queued-resources delete n --foo", "compute tpus queued-resources frob", "storage rm gs://b/a"],
)
def test_what_is_not_in_use_is_refused(gcloud, words):
    assert gcloud(*words.split()).returncode == 2
