"""Slices of processes of this machine: what a Cloud TPU slice is for the controller, without a cloud."""

import os
import pathlib
import shlex
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from launch import worker
from launch.cloud import CloudError
from launch.controller import Resource, State
from launch.spec import Spec
from redundancy.runtime.errors import UserError


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class LocalSlices:
    """Each slice is a folder: slice.json, and a home folder for every host."""

    def __init__(self, spec: Spec):
        if not os.path.isdir("/proc/self"):
            raise UserError("the local backend finds its processes in /proc, which this system does not have.")
        self._spec = spec
        self._root = pathlib.Path(spec.root).expanduser().absolute() / "slices"

    def create(self, name: str, zone: str, labels: Mapping[str, str], left_s: float) -> None:
        folder = self._root / name
        if (folder / "slice.json").exists():
            return
        for host in range(self._spec.hosts):
            (folder / f"host-{host}").mkdir(parents=True, exist_ok=True)
        self.set_state(name, "ACTIVE", labels=dict(labels), hosts=self._spec.hosts, port=_free_port(), zone=zone)

    def set_state(self, name: str, state: str, **values) -> None:
        path = self._root / name / "slice.json"
        worker.write_json(str(path), {**(worker.read_json(str(path)) or {}), **values, "state": state})

    def describe(self, name: str, zone: str) -> Resource:
        found = worker.read_json(str(self._root / name / "slice.json"))
        if found is None:
            return Resource(name, zone, State.ABSENT)
        state = State.ACTIVE if found["state"] == "ACTIVE" else State.BROKEN
        return Resource(
            name, found["zone"], state, hosts=found["hosts"], message=found["state"], labels=found["labels"]
        )

    def delete(self, name: str, zone: str) -> None:
        """Ends every process of the slice, and removes its folder."""
        found = worker.read_json(str(self._root / name / "slice.json")) or {}
        for host in range(found.get("hosts", self._spec.hosts)):
            worker.end_marked(self.mark(name, host), patience=5.0)
        shutil.rmtree(self._root / name, ignore_errors=True)

    def mark(self, name: str, host: int) -> str:
        return worker.mark_of(self._spec.mark(name), host, self._root / name / f"host-{host}" / ".launch")

    def existing(self) -> list[Resource]:
        names = sorted(path.parent.name for path in self._root.glob("*/slice.json"))
        return [self.describe(name, "local") for name in names]

    def execute(self, name: str, zone: str, argv: Sequence[str], workers: Sequence[int], timeout: float) -> str:
        found = worker.read_json(str(self._root / name / "slice.json"))
        if found is None:
            raise CloudError("missing", f"there is no slice {name} under {self._root}")

        def run(host: int) -> str:
            home = self._root / name / f"host-{host}"
            env = {**os.environ, "HOME": str(home), "LAUNCH_WORKER": str(host)}
            # The user's caches serve all hosts: they are of this machine.
            env.setdefault("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
            if found["hosts"] > 1:
                env |= {
                    "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{found['port']}",
                    "JAX_NUM_PROCESSES": str(found["hosts"]),
                    "JAX_PROCESS_ID": str(host),
                }
            try:
                done = subprocess.run(
                    argv, env=env, cwd=home, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
                )
                return done.stdout + done.stderr
            except subprocess.TimeoutExpired:
                return f"host {host}: no answer in {timeout:.0f} s"

        with ThreadPoolExecutor(found["hosts"]) as pool:
            return "\n".join(pool.map(run, workers or range(found["hosts"])))

    def plan(self, name: str, zone: str, labels: Mapping[str, str], left_s: float, argv: Sequence[str]) -> list[str]:
        return [f"(on each of {self._spec.hosts} local hosts) {shlex.join(argv)}"]


class LocalFiles:
    """Small files in a folder, as cloud.GcsFiles has them in a bucket. `generation`: when the file was written; 0: none."""

    def __init__(self, root: str):
        self.root = str(pathlib.Path(root).expanduser().absolute())

    def uri(self, path: str) -> str:
        return f"{self.root}/{path}"

    def read(self, path: str) -> bytes | None:
        try:
            return pathlib.Path(self.uri(path)).read_bytes()
        except FileNotFoundError:
            return None

    def generation(self, path: str) -> int:
        try:
            return os.stat(self.uri(path)).st_mtime_ns
        except FileNotFoundError:
            return 0

    def write(self, path: str, data: bytes, generation: int | None = None) -> None:
        if generation is not None and self.generation(path) != generation:
            raise CloudError("changed", f"{self.uri(path)} was changed by another process.")
        target = pathlib.Path(self.uri(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        part.write_bytes(data)
        os.replace(part, target)

    def lines(self, pattern: str) -> list[bytes]:
        paths = sorted(pathlib.Path(self.root).glob(pattern))
        return [line for path in paths for line in path.read_bytes().splitlines()]

    def names(self, path: str) -> list[str]:
        folder = pathlib.Path(self.uri(path))
        return sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []
