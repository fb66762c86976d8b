"""A Dask cluster of real processes on 127.0.0.1, whose workers can be killed and sabotaged."""

import json
import os
import pathlib
import signal
import subprocess
import sys

from redundancy import storage
from tests.waiting import wait_until

# Loaded by a worker before its first task: does to a class's task what the workdir's sabotage.json says.
SABOTAGE = """
import json, os, time
from redundancy.selection import tasks
def sabotaged(task):
    root = os.path.dirname(os.path.dirname(task.merges))
    todo = {}
    if os.path.exists(f"{root}/sabotage.json"):
        with open(f"{root}/sabotage.json") as file:
            todo = json.load(file)
    time.sleep(todo.get("sleep", 0))
    if task.label == todo.get("exit"):
        os._exit(1)
    if task.label in todo.get("fail", ()) or task.label == todo.get("fail once") and not os.path.exists(f"{root}/failed"):
        open(f"{root}/failed", "w").close()
        raise ConnectionResetError("the network is down")
    return link_class(task)
if tasks.link_class.__name__ == "link_class":  # Dask loads this twice
    link_class, tasks.link_class = tasks.link_class, sabotaged
"""


class Cluster:
    """A scheduler and workers; each is a process group of its own, so that a worker dies with its nanny."""

    def __init__(self, folder: pathlib.Path, env: dict[str, str]):
        self._folder, self._env, self._processes = folder, env, []
        self._preload = folder / "sabotage.py"
        self._preload.write_text(SABOTAGE)

    def _start(self, module, *flags, **env):
        name = f"{module}-{len(self._processes)}.log"
        with open(self._folder / name, "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.{module}", "--host", "127.0.0.1", *flags],
                env={**self._env, **env},
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self._folder,
            )
        self._processes.append(process)
        return process

    def scheduler(self, **env) -> subprocess.Popen:
        """Starts a scheduler; `address` and `file` are then its."""
        self.file = self._folder / f"scheduler-{len(self._processes)}.json"
        flags = ("--port", "0", "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(self.file))
        # Where the tests are killed, it ends itself, and the workers with it.
        process = self._start("dask_scheduler", *flags, "--idle-timeout", "600", **env)

        def logged():
            assert process.poll() is None
            return self.file.exists() and self.file.read_text().endswith("}")

        wait_until(logged)
        self.address = json.loads(self.file.read_text())["address"]
        return process

    def worker(self, *flags, preload=None) -> subprocess.Popen:
        """Starts a worker of one thread, that loads the sabotage or another file first."""
        flags += ("--nthreads", "1", "--no-dashboard", "--memory-limit", "0")
        flags += ("--local-directory", str(self._folder / "scratch"), "--preload", str(preload or self._preload))
        return self._start("dask_worker", self.address, *flags)

    def kill(self, process):
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def close(self):
        for process in self._processes:
            if process.poll() is None:
                self.kill(process)


def sabotage(workdir, **todo):
    storage.write_json(workdir.path("sabotage.json"), todo)
