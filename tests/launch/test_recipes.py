"""The files for other launchers: they run the command that launch/ runs, and go on after the exit codes that ask for it."""

import pathlib
import shlex
import subprocess
import sys

import pytest

from launch.backends.queued_resources import TYPES

LAUNCH = pathlib.Path(__file__).resolve().parents[2] / "launch"
CONTINUE = [75, 76]
yaml = pytest.importorskip("yaml")


def recipe(name):
    return yaml.safe_load((LAUNCH / f"{name}.yaml").read_text())


def check(words):
    """Fails where redundancy would not take the command."""
    assert "--workdir" in words
    assert words[words.index("--workdir") + 1].startswith("gs://")
    code = "import sys; from redundancy.cli import main; sys.exit(main.check(['redundancy', *sys.argv[1:]]))"
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=LAUNCH.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_skypilot():
    task = recipe("skypilot")
    resources, recovery = task["resources"], task["resources"]["job_recovery"]
    assert recovery["recover_on_exit_codes"] == CONTINUE
    assert resources["use_spot"]
    kind = resources["accelerators"].removeprefix("tpu-").rpartition("-")[0]
    assert resources["accelerator_args"] == {"tpu_vm": True, "runtime_version": TYPES[kind][1]}
    assert (LAUNCH.parent / task["setup"].split()[1]).exists()
    words = shlex.split(task["run"].splitlines()[-1].replace("$BUCKET", "gs://bucket"))
    assert words[:4] == ["exec", ".launch-venv/bin/python", "-m", "redundancy"]
    check(words[4:])


def test_jobset():
    spec = recipe("jobset")["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    container, nodes = pod["containers"][0], pod["nodeSelector"]
    # What the pods' rules end is what the set goes on after, without counting.
    [rule] = spec["failurePolicy"]["rules"]
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    codes, lost = job["podFailurePolicy"]["rules"]
    assert codes["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": CONTINUE}
    assert lost["onPodConditions"][0]["type"] == "DisruptionTarget"
    assert (codes["action"], lost["action"], job["backoffLimit"]) == ("FailJob", "FailJob", 0)
    assert pod["restartPolicy"] == "Never"  # which podFailurePolicy needs
    rows, columns = map(int, nodes["cloud.google.com/gke-tpu-topology"].split("x"))
    hosts = rows * columns // container["resources"]["limits"]["google.com/tpu"]
    assert job["completions"] == job["parallelism"] == hosts
    assert container["command"][0] == "redundancy"
    check(container["command"][1:])


def test_skypilot_takes_its_file():
    """Where SkyPilot is installed; the project does not need it."""
    jsonschema, schemas = pytest.importorskip("jsonschema"), pytest.importorskip("sky.utils.schemas")
    task = recipe("skypilot")
    jsonschema.validate(task, schemas.get_task_schema())
    jsonschema.validate(task["resources"], schemas.get_resources_schema())
