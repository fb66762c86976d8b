"""One device or eight, one process or two: the same losses, step by step."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.ports import free_port
from tests.waiting import ending

MESHES = [[1, 1], [1, 4], [1, 8], [2, 4]]
OF_TWO = [[1, 4], [2, 2]]


def command(repo, *arguments):
    return [sys.executable, repo / "tests" / "training" / "loss_curves.py", *map(str, arguments)]


@pytest.fixture(scope="module")
def one_process(digits_npz, child_env, repo):
    environment = {**child_env, "XLA_FLAGS": child_env["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8"}
    child = subprocess.run(
        command(repo, digits_npz, json.dumps(MESHES)), env=environment, capture_output=True, text=True, timeout=500
    )
    assert child.returncode == 0, child.stderr[-3000:]
    return json.loads(child.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def two_processes(digits_npz, child_env, repo):
    port = free_port()
    environment = {**child_env, "XLA_FLAGS": child_env["XLA_FLAGS"] + " --xla_force_host_platform_device_count=2"}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    children = [
        subprocess.Popen(command(repo, digits_npz, json.dumps(OF_TWO), 2, index, port), env=environment, **pipes)
        for index in range(2)
    ]
    with ending(children):
        outputs = [child.communicate(timeout=500) for child in children]
    assert not any(child.returncode for child in children), outputs[0][1][-3000:] + outputs[1][1][-3000:]
    return [json.loads(out.splitlines()[-1]) for out, _ in outputs]


def assert_same(found, expected):
    np.testing.assert_allclose(found["losses"], expected["losses"], rtol=2e-4)
    np.testing.assert_allclose(found["test_loss"], expected["test_loss"], rtol=1e-3)
    np.testing.assert_allclose(found["embedding"], expected["embedding"], rtol=1e-2, atol=1e-3)


@pytest.mark.soak
@pytest.mark.parametrize("mesh", MESHES[1:], ids=str)
def test_losses_do_not_depend_on_the_devices(one_process, mesh):
    alone = one_process["[1, 1] resident"]
    assert np.shape(alone["losses"]) == (2, 20)
    assert np.ptp(alone["losses"]) > 0.25
    assert_same(one_process[f"{mesh} resident"], alone)


@pytest.mark.soak
def test_streamed_losses_equal_resident_ones(one_process):
    assert_same(one_process["[1, 1] streamed"], one_process["[1, 1] resident"])


@pytest.mark.soak
@pytest.mark.parametrize("mesh", OF_TWO, ids=str)
@pytest.mark.parametrize("feed", ["resident", "streamed"])
def test_losses_do_not_depend_on_the_processes(one_process, two_processes, mesh, feed):
    for found in two_processes:
        assert_same(found[f"{mesh} {feed}"], one_process["[1, 1] resident"])
