"""What runs on a host before anything is installed there: the shell scripts, and that worker.py needs nothing but Python."""

import ast
import fcntl
import hashlib
import io
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

import pytest

from launch.backends.queued_resources import Backend
from launch.spec import defaults, resolve
from tests.waiting import wait_until

HERE = pathlib.Path(__file__).resolve().parents[2]
LAUNCH = HERE / "launch"
BOOTSTRAP, SETUP = LAUNCH / "bootstrap.sh", LAUNCH / "setup_worker.sh"
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.mark.parametrize(
    "path", [BOOTSTRAP, SETUP, LAUNCH / "startup.sh", HERE / ".ci/run"], ids=lambda path: path.name
)
def test_shellcheck(path):
    binary = shutil.which("shellcheck", path=f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}")
    if binary is None:
        pytest.skip("needs shellcheck (the extra test)")
    done = subprocess.run([binary, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("started", [False, True])
def test_a_slice_outlives_nobody(tmp_path, monkeypatch, started):
    """What a VM runs at its start: gone after a while where no program was started, and when its time is over anyway."""
    config = defaults()
    config.bucket, config.zones = "gs://bucket", ("us-west4-a",)
    config.budget_chip_hours, config.idle_minutes = 9.0, 1 / 60
    monkeypatch.setenv("HOME", str(tmp_path))
    slices = Backend(resolve(config))
    slices.write_startup("r-0", "us-west4-a", 3.0)
    script(tmp_path / "bin" / "gcloud", f'#!/bin/sh\necho "$@" > {tmp_path}/deleted\n')
    if started:
        (tmp_path / "homes" / "me" / ".launch" / "jobs" / "r-0").mkdir(parents=True)
    over = tmp_path / "over"
    script(
        tmp_path / "bin" / "sleep",
        f'#!/bin/sh\necho "$1" >> {tmp_path}/slept\nuntil [ -e {over} ]; do /bin/sleep 0.02; done\n',
    )
    env = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "homes": str(tmp_path / "homes")}
    try:
        # The start of the VM does not wait for it.
        subprocess.run(["sh", str(slices.startup("r-0"))], env=env, check=True, timeout=60)
        assert not (tmp_path / "deleted").exists()
    finally:
        over.touch()
    wait_until(lambda: (tmp_path / "deleted").exists() and (tmp_path / "deleted").read_text())
    assert (tmp_path / "slept").read_text().split() == (["1", "2"] if started else ["1"])
    assert (tmp_path / "deleted").read_text().split()[:5] == ["compute", "tpus", "queued-resources", "delete", "r-0"]


def test_the_worker_is_python_3_8():
    ast.parse((LAUNCH / "worker.py").read_text(), feature_version=(3, 8))


def test_the_worker_imports_the_standard_library_alone():
    code = f"import sys; sys.path.insert(0, {str(LAUNCH)!r}); import worker; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    roots = {name.partition(".")[0] for name in done.stdout.split()}
    assert roots <= {*sys.stdlib_module_names, "worker", "__main__"}


# bootstrap.sh


class Host:
    """A host's home folder, and a bundle whose worker.py prints what it was given."""

    def __init__(self, folder):
        self.home, self.bundle, self.bin = folder / "a home", folder / "a folder/the bundle.tar.gz", folder / "bin"
        for each in (self.home, self.bundle.parent, self.bin):
            each.mkdir(parents=True)
        with tarfile.open(self.bundle, "w:gz") as archive:
            content = b"import sys; print('worker', sys.argv[1:])"
            entry = tarfile.TarInfo("launch/worker.py")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        self.sha = hashlib.sha256(self.bundle.read_bytes()).hexdigest()

    def start(self, sha=None, bundle=None):
        words = ["sh", str(BOOTSTRAP), bundle or str(self.bundle), sha or self.sha, "start", "a b", "1"]
        env = {**os.environ, "HOME": str(self.home), "PATH": f"{self.bin}:{os.environ['PATH']}"}
        return subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *args):
        process = self.start(*args)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    def trees(self):
        return sorted(each.name for each in (self.home / ".launch/trees").iterdir())


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


SAID = "LAUNCH-HERE\nworker ['start', 'a b', '1']\n"


def test_the_code_is_fetched_once(host):
    assert host.run() == (0, SAID, "")
    host.bundle.unlink()
    assert host.run() == (0, SAID, "")
    assert host.trees() == [host.sha]


@pytest.mark.parametrize(
    ("content", "sha"), [(None, "0" * 64), (b"no archive", hashlib.sha256(b"no archive").hexdigest())]
)
def test_another_content_or_no_archive_leaves_nothing(host, content, sha):
    good = host.bundle.read_bytes()
    host.bundle.write_bytes(content or good)
    code, out, err = host.run(sha)
    assert code != 0
    assert out.startswith("LAUNCH-HERE\n")
    assert "worker [" not in out
    assert ("did NOT match" in err) == (content is None)
    assert host.trees() == []
    host.bundle.write_bytes(good)
    assert host.run()[0] == 0


def test_code_from_the_bucket(host):
    script(host.bin / "gcloud", f'#!/bin/sh\necho "$@" >&2\ncp "{host.bundle}" "$4"\n')
    code, out, err = host.run(None, "gs://bucket/a b.tar.gz")
    assert (code, out) == (0, SAID)
    assert err.startswith("storage cp gs://bucket/a b.tar.gz ")


def test_starts_at_once_do_not_disturb_each_other(host):
    script(host.bin / "cp", '#!/bin/sh\nsleep 0.3\nexec /bin/cp "$@"\n')
    starts = [host.start() for _ in range(3)]
    assert [(*each.communicate(timeout=120), each.returncode) for each in starts] == [(SAID, "", 0)] * 3
    assert host.trees() == [host.sha]


# setup_worker.sh


class Machine:
    """A home folder, and unpacked code that wants one small package."""

    def __init__(self, folder):
        self.home, self.bin, self.code = folder / "home", folder / "bin", folder / "some code"
        for each in (self.home, self.bin, self.code):
            each.mkdir(parents=True)
        (self.code / "pyproject.toml").write_text(
            '[project]\nname = "x"\nversion = "0"\n[project.optional-dependencies]\nsmall = ["iniconfig"]\nnone = []\n'
        )
        self.lock("2.3.0")
        path = f"{self.bin}:{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if name not in ("UV_CACHE_DIR", "XDG_CACHE_HOME")}
        self.env = {**kept, "UV_PYTHON_DOWNLOADS": "never", "HOME": str(self.home), "PATH": path}

    def lock(self, version):
        (self.code / "constraints.txt").write_text(f"iniconfig=={version}\n")

    def start(self, extras="small,none", **env):
        words = ["bash", str(SETUP), VERSION, extras]
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return subprocess.Popen(words, cwd=self.code, env={**self.env, **env}, **pipes)

    def run(self, *args, **env):
        """The folder of the virtual environment."""
        process = self.start(*args, **env)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert out.startswith("setup: ")
        assert (self.code / ".launch-venv").resolve() == pathlib.Path(out[7:].rstrip("\n"))
        return pathlib.Path(out[7:].rstrip("\n"))


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """Skips where packages cannot be had."""
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries=0", "--timeout=10"]
    folder = tmp_path_factory.mktemp("probe")
    if subprocess.run([*argv, f"--dest={folder}", "iniconfig==2.3.0"], capture_output=True).returncode != 0:
        pytest.skip("needs a package registry")


@pytest.mark.soak
def test_a_virtual_environment_is_made_once(registry, tmp_path):
    machine = Machine(tmp_path)
    first = machine.run()
    code = "import iniconfig, importlib.metadata as m, sys; print(m.version('iniconfig'), *sys.version_info[:2])"
    python = machine.code / ".launch-venv/bin/python"
    shown = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["2.3.0", *VERSION.split(".")]
    # Neither registry nor cache: nothing is to be fetched.
    offline = dict.fromkeys(("PIP_INDEX_URL", "UV_DEFAULT_INDEX"), "http://127.0.0.1:1/")
    assert machine.run(**offline, UV_CACHE_DIR=str(tmp_path / "none")) == first
    # Whatever a killed setup has left is done away with.
    (first / ".complete").unlink()
    shutil.rmtree(first / "bin")
    (first / "pyvenv.cfg").unlink()
    assert machine.run() == first
    subprocess.run([python, "-c", code], check=True, capture_output=True)


@pytest.fixture
def stub(tmp_path):
    """A machine whose uv and pip only write down what they are asked for, and whose `sleep` does not."""
    machine = Machine(tmp_path)
    log = tmp_path / "log"
    uv = (
        f'#!/bin/sh\necho "$@" >>{log}\n[ ! -e {tmp_path}/fail ] || {{ rm {tmp_path}/fail; exit 1; }}\n'
        f'if [ "$1" = venv ]; then /bin/sleep 0.2; mkdir -p "$(for last; do :; done; echo "$last")"; fi\n'
    )
    script(tmp_path / "uv", uv)
    python = f'#!/bin/sh\necho "$@" >>{log}\nfor word; do case $word in *.part) to=$word;; esac; done\n'
    script(machine.bin / "python3", f'{python}mkdir -p "$to/bin"; cp {tmp_path}/uv "$to/bin/uv"\n')
    script(machine.bin / "sleep", "#!/bin/sh\n")
    machine.asked = lambda: [line.split()[0] for line in log.read_text().splitlines()]
    machine.failing = tmp_path / "fail"
    return machine


def test_what_is_asked_of_uv(stub, tmp_path):
    stub.run()
    pip, venv, install = (tmp_path / "log").read_text().splitlines()
    assert pip.startswith("-m pip install ")
    assert f"--python {VERSION} {stub.home}" in venv
    assert install.endswith("--constraint constraints.txt --requirement pyproject.toml --extra small --extra none")


def test_another_lock_file_or_extra_has_an_environment_of_its_own(stub):
    first = stub.run()
    stub.lock("2.1.0")
    second = stub.run()
    third = stub.run("small")
    assert len({first, second, third}) == 3
    stub.lock("2.3.0")
    assert stub.run() == first
    assert stub.asked() == ["-m", "venv", "pip"] + ["venv", "pip"] * 2


def test_two_at_once_make_one(stub):
    both = [stub.start(), stub.start()]
    assert len({each.communicate(timeout=120)[0] for each in both}) == 1
    assert [each.returncode for each in both] == [0, 0]
    assert stub.asked() == ["-m", "venv", "pip"]
    with open(stub.home / ".launch/venvs/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        late = stub.start()
        with pytest.raises(subprocess.TimeoutExpired):
            late.wait(0.5)
    late.communicate(timeout=120)
    assert late.returncode == 0


def test_a_failure_is_tried_again(stub):
    stub.failing.touch()
    stub.run()
    assert stub.asked() == ["-m", "venv", "venv", "pip"]


def test_failures_end_the_setup_and_the_next_one_begins_again(stub):
    script(stub.bin / "python3", "#!/bin/sh\necho no network >&2\nexit 1\n")
    process = stub.start()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "setup: once more in 45 s: python3 -m pip" in err
    assert "setup: " not in out
    assert not (stub.code / ".launch-venv").exists()
