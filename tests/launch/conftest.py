"""Fixtures for tests of launch/: a fake cloud, and the environments in which `gcloud` is the fake or the real one."""

import os
import pathlib
import shutil
import stat
import sys
from collections.abc import Iterator

import pytest

from launch import bundle, run
from tests.launch.bench import Bench
from tests.launch.cloud import FakeCloud

FAKE_GCLOUD = pathlib.Path(__file__).with_name("fake_gcloud.py")
BUCKET = "bucket"

# The real gcloud runs ssh for each worker; this runs the command here, in that worker's home.
_SSH = """#!/usr/bin/env python3
import os, pathlib, re, subprocess, sys
address = next(re.fullmatch(r"[^@]+@127\\.0\\.\\d+\\.(\\d+)", word) for word in sys.argv[1:] if "@127.0." in word)
home = pathlib.Path(os.environ["FAKE_GCLOUD_HOSTS"]) / f"worker-{int(address[1]) - 10}"
home.mkdir(parents=True, exist_ok=True)
with open(home / "ssh-arguments", "a") as file:
    print(sys.argv[1:], file=file)
command = " ".join(sys.argv[sys.argv.index("--") + 1 :])
env = {"PATH": "/usr/bin:/bin", "HOME": str(home), "TPU_WORKER_ID": home.name.removeprefix("worker-")}
sys.exit(subprocess.run(["bash", "-c", command], cwd=home, env=env, stdin=subprocess.DEVNULL).returncode)
"""

_SSH_KEYGEN = """#!/usr/bin/env python3
import sys
if "-f" in sys.argv and "-t" in sys.argv:
    path = sys.argv[sys.argv.index("-f") + 1]
    open(path, "w").write("a key\\n")
    open(path + ".pub", "w").write("ssh-rsa AAAA user@here\\n")
"""


@pytest.fixture(scope="session")
def code():
    return bundle.make(run.HERE.parent)


@pytest.fixture
def bench(cloud, gcloud_env, tmp_path, monkeypatch, code):
    """A run on the fake cloud, which must break no rule of it and leave nothing there."""
    monkeypatch.setattr(bundle, "make", lambda _: code)
    for name, value in gcloud_env.items():
        monkeypatch.setenv(name, value)
    made = Bench(cloud, tmp_path, monkeypatch)
    try:
        yield made
    finally:
        made.close()
    assert cloud.violations == []
    assert cloud.resources() == [], f"left: {cloud.resources()}\n{made.text}"


def _script(path: pathlib.Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def cloud(tmp_path: pathlib.Path) -> Iterator[FakeCloud]:
    """A running fake cloud. What still runs on its machines is killed at the end."""
    with FakeCloud(homes=tmp_path / "hosts") as running:
        yield running


@pytest.fixture
def gcloud_env(cloud: FakeCloud, tmp_path: pathlib.Path) -> dict[str, str]:
    """An environment in which `gcloud` is the fake one, gs://bucket exists and is empty.

    The bucket is the folder tmp_path/buckets/bucket, and the homes of the slice NAME are tmp_path/hosts/NAME/worker-I.
    """
    return fake_environment(cloud, tmp_path)


def fake_environment(cloud: FakeCloud, folder: pathlib.Path) -> dict[str, str]:
    binaries = folder / "bin"
    # Imported, so that it is compiled once.
    root = FAKE_GCLOUD.parents[2]
    begin = (
        f"import sys; sys.path.insert(0, '{root}'); from tests.launch import fake_gcloud as it; it.main(sys.argv[1:])"
    )
    text = f'#!/bin/sh\nFAKE_GCLOUD_BIN="{binaries}" exec "{sys.executable}" -I -S -c "{begin}" "$@"\n'
    _script(binaries / "gcloud", text)
    for name in ("buckets/" + BUCKET, "home", "hosts"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return {
        **os.environ,
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "HOME": str(folder / "home"),
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_TPU": cloud.url,
        "CLOUDSDK_CORE_PROJECT": "p",
        "FAKE_GCLOUD_BUCKETS": str(folder / "buckets"),
        "FAKE_GCLOUD_HOSTS": str(folder / "hosts"),
    }


def real_environment(cloud: FakeCloud, folder: pathlib.Path) -> dict[str, str]:
    """An environment in which the installed gcloud talks to the fake cloud. Skips the test where there is none."""
    if shutil.which("gcloud") is None:
        pytest.skip("needs gcloud")
    tools = folder / "tools"
    _script(tools / "ssh", _SSH)
    _script(tools / "scp", "#!/bin/sh\nexit 1\n")
    _script(tools / "ssh-keygen", _SSH_KEYGEN)
    (folder / "real-home").mkdir(parents=True, exist_ok=True)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("CLOUDSDK_", "GOOGLE_"))}
    return {
        **kept,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "HOME": str(folder / "real-home"),
        "CLOUDSDK_CONFIG": str(folder / "cloudsdk"),
        "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "1",
        "CLOUDSDK_CORE_PROJECT": "p",
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "1",
        "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "1",
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_TPU": cloud.url,
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": f"{cloud.url}compute/v1/",
        "FAKE_GCLOUD_HOSTS": str(folder / "real-hosts"),
    }
