"""How the processes of a run find each other: by flags, on a TPU slice, or not at all. On CPU, without a TPU."""

import json
import subprocess
import sys

import pytest

from tests.ports import free_port
from tests.waiting import ending

# Joins as the command line does, then reports what it found; the last process may give a wrong number.
CHILD = """
import dataclasses, json, os, signal, sys
from redundancy.cli import commands, main
from redundancy.runtime import preemption, processes
main._FLAGS(["redundancy", *sys.argv[1:]])
several = commands.several()
if several is None:
    print(json.dumps("alone"))
    sys.exit()
with preemption.handling_sigterm(), preemption.deferred():
    if "LIE" in os.environ:
        processes.index = lambda: 7
    processes.start(**dataclasses.asdict(several))
    found = [processes.count(), processes.index()]
    os.kill(os.getpid(), signal.SIGTERM) if processes.count() == 1 else None
    print(json.dumps([*found, preemption.asked()]), flush=True)
    processes.leave()
"""
# Environment of a host of a slice, as GKE sets it; a slice number that is given keeps JAX from asking Google's metadata server.
TPU = {
    "JAX_FORCE_TPU_INIT": "1", "MEGASCALE_COORDINATOR_ADDRESS": "127.0.0.1", "MEGASCALE_NUM_SLICES": "1",
    "MEGASCALE_SLICE_ID": "0",
}  # fmt: skip


def join(repo, child_env, arguments, environments):
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, *each],
            cwd=repo,
            env={**child_env, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for each, environment in zip(arguments, environments, strict=True)
    ]
    with ending(children):
        return [(*child.communicate(timeout=300), child.returncode) for child in children]


def reports(outcomes):
    return [json.loads(out.splitlines()[-1]) if out else err[-2000:] for out, err, _ in outcomes]


@pytest.mark.soak
def test_by_hand(repo, child_env):
    flags = [f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2"]
    found = join(repo, child_env, [[*flags, f"--process_id={number}"] for number in range(2)], [{}, {}])
    assert reports(found) == [[2, 0, False], [2, 1, False]]


@pytest.mark.soak
def test_hosts_of_a_slice_find_each_other(repo, child_env):
    slice_of_two = {**TPU, "TPU_WORKER_HOSTNAMES": "127.0.0.1,127.0.0.1", "JAX_COORDINATOR_PORT": str(free_port())}
    found = join(
        repo,
        child_env,
        [[], ["--coordinator=auto"]],
        [{**slice_of_two, "TPU_WORKER_ID": str(number)} for number in range(2)],
    )
    assert reports(found) == [[2, 0, False], [2, 1, False]]


def test_a_slice_of_one_host_hears_sigterm(repo, child_env):
    alone = {**TPU, "TPU_WORKER_HOSTNAMES": "127.0.0.1", "TPU_WORKER_ID": "0", "JAX_COORDINATOR_PORT": str(free_port())}
    assert reports(join(repo, child_env, [[]], [alone])) == [[1, 0, True]]


def test_no_slice_and_none_of_them(repo, child_env):
    slice_of_two = {**TPU, "TPU_WORKER_HOSTNAMES": "127.0.0.1,127.0.0.1", "TPU_WORKER_ID": "0"}
    assert reports(join(repo, child_env, [[], ["--coordinator=none"]], [{}, slice_of_two])) == ["alone", "alone"]


@pytest.mark.soak
def test_processes_that_do_not_reach_each_other_report_it(repo, child_env):
    flags = [f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2"]
    found = join(repo, child_env, [[*flags, f"--process_id={number}"] for number in range(2)], [{}, {"LIE": "1"}])
    for _, error, code in found:
        assert code != 0
        assert "do not reach each other: expected the numbers 0 to 1, received [0, 7]" in error
