"""Slices that consist of processes of this machine, for use in place of Cloud TPU slices."""

import contextlib
import os
import pathlib
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from launch import worker
from launch.backends import CloudError, Slices
from launch.records import Resource, State
from launch.spec import Spec
from redundancy import storage
from redundancy.runtime.errors import ConfigError, UserError

_ZONE = "local"


class Backend(Slices):
    """Each slice is a folder with slice.json and a home folder for every host."""

    python = sys.executable

    def __init__(self, spec: Spec):
        spec.need(spec.bucket and "://" not in spec.bucket, "bucket", "a folder of this machine, as backend is local")
        if not os.path.isdir("/proc/self"):
            raise UserError("the local backend finds its processes in /proc, which this system does not have.")
        super().__init__(spec, (_ZONE,), spec.hosts, f"{spec.hosts} local processes", LocalFiles(spec.root))
        self._root = pathlib.Path(self.files.root) / "slices"

    def _found(self, name: str) -> dict | None:
        return worker.read_json(str(self._root / name / "slice.json"))

    def create(self, name: str, zone: str, labels: Mapping[str, str], left_s: float) -> None:
        if self._found(name):
            return
        for host in range(self.spec.hosts):
            (self._root / name / f"host-{host}").mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:  # to find a free port
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.set_state(name, "ACTIVE", labels=dict(labels), hosts=self.spec.hosts, port=port)

    def set_state(self, name: str, state: str, **values) -> None:
        content = {**(self._found(name) or {}), **values, "state": state}
        worker.write_json(str(self._root / name / "slice.json"), content)

    def describe(self, name: str, zone: str) -> Resource:
        found = self._found(name)
        if found is None:
            return Resource(name, zone, State.ABSENT)
        state = State.ACTIVE if found["state"] == "ACTIVE" else State.BROKEN
        return Resource(name, zone, state, hosts=found["hosts"], message=found["state"], labels=found["labels"])

    def delete(self, name: str, zone: str) -> None:
        """Ends all processes of the slice, and removes its folder."""
        for host in range((self._found(name) or {}).get("hosts", self.spec.hosts)):
            worker.end_marked(self.mark(name, host), patience=5.0)
        shutil.rmtree(self._root / name, ignore_errors=True)

    def mark(self, name: str, host: int) -> str:
        return worker.mark_of(self.spec.mark(name), host, self._root / name / f"host-{host}" / ".launch")

    def existing(self) -> list[Resource]:
        return [self.describe(path.parent.name, _ZONE) for path in sorted(self._root.glob("*/slice.json"))]

    def execute(self, name: str, zone: str, argv: Sequence[str], workers: Sequence[int], timeout: float) -> str:
        found = self._found(name)
        if found is None:
            raise CloudError("missing", f"there is no slice {name} under {self._root}")
        # All hosts share the user's caches, since they are on the same machine.
        shared = {"XDG_CACHE_HOME": os.path.expanduser("~/.cache"), **os.environ}
        if found["hosts"] > 1:
            shared |= {
                "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{found['port']}",
                "JAX_NUM_PROCESSES": str(found["hosts"]),
            }

        def run(host: int) -> str:
            home = self._root / name / f"host-{host}"
            env = {**shared, "HOME": str(home), "LAUNCH_WORKER": str(host)}
            env |= {"JAX_PROCESS_ID": str(host)} if found["hosts"] > 1 else {}
            pipes = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            try:
                return subprocess.run(argv, env=env, cwd=home, timeout=timeout, **pipes).stdout
            except subprocess.TimeoutExpired:
                return f"host {host}: no answer in {timeout:.0f} s"

        with ThreadPoolExecutor(found["hosts"]) as pool:
            return "\n".join(pool.map(run, workers or range(found["hosts"])))

    def plan(self, name: str, zone: str, labels: Mapping[str, str], left_s: float, argv: Sequence[str]) -> list[str]:
        return [f"(on each of {self.spec.hosts} local hosts) {shlex.join(argv)}"]

    def check_workdir(self, workdir: str) -> None:
        if not (workdir.startswith("gs://") or os.path.isabs(workdir)):
            raise ConfigError(f"--workdir {workdir} is relative; wanted a whole path: hosts have folders of their own.")


class LocalFiles:
    """Files in a folder. The `generation` is the time at which a file was written."""

    def __init__(self, root: str):
        self.root = str(pathlib.Path(root).expanduser().absolute())

    def uri(self, path: str) -> str:
        return f"{self.root}/{path}"

    def read(self, path: str) -> bytes | None:
        with contextlib.suppress(FileNotFoundError):
            return storage.read_bytes(self.uri(path))

    def generation(self, path: str) -> int:
        with contextlib.suppress(FileNotFoundError):
            return os.stat(self.uri(path)).st_mtime_ns
        return 0

    def write(self, path: str, data: bytes, generation: int | None = None) -> None:
        if generation is not None and self.generation(path) != generation:
            raise CloudError("changed", f"{self.uri(path)} was changed by another process.")
        storage.make_dirs(os.path.dirname(self.uri(path)))
        storage.write_bytes(self.uri(path), data)

    def lines(self, pattern: str) -> list[bytes]:
        paths = sorted(pathlib.Path(self.root).glob(pattern))
        return [line for path in paths for line in path.read_bytes().splitlines()]

    def names(self, path: str) -> list[str]:
        return storage.list_dir(self.uri(path))
