"""A run of the controller on the fake cloud, with real hosts' processes; the program is a small one, that saves its step."""

import json
import sys
import threading
import time

from launch import run, spec, start
from redundancy.runtime.errors import UserError
from tests.waiting import wait_until

PROGRAM = """
import os, pathlib, signal, sys, time
here = pathlib.Path(sys.argv[1]); here.mkdir(exist_ok=True)
saved, starts = here / f"step-{os.environ['TPU_WORKER_ID']}", here / f"starts-{os.environ['TPU_WORKER_ID']}"
with open(starts, "a") as file: file.write("x")
def end(*_):
    print("saved"); sys.exit(75)
signal.signal(signal.SIGTERM, end)
for step in range(int(saved.read_text() or 0) if saved.exists() else 0, int(sys.argv[2])):
    if len(sys.argv) > 3: exec(sys.argv[3])
    time.sleep(0.05)
    part = saved.with_suffix(".part"); part.write_text(str(step + 1)); part.replace(saved)
    print("step", step + 1, flush=True)
print("all", sys.argv[2], "steps")
"""


class Bench:
    """A run on the fake cloud, and what the tests ask of it."""

    def __init__(self, cloud, folder, monkeypatch):
        self.cloud, self.folder, self.said, self.patch, self.threads = cloud, folder, [], monkeypatch, []
        self.clock = time
        (folder / "program.py").write_text(PROGRAM)
        self.values = dict(
            run="r", project="p", bucket="gs://bucket", zones=("us-west4-a", "us-central1-a"), budget_chip_hours=1000.0,
            poll_s=0.15, mirror_s=0.15, self_delete=False, devices=(), python=sys.executable,
        )  # fmt: skip
        self.policy = dict(backoff_s=0.1, appear_s=0.5, settle_s=2.0, unready_s=0.5)
        self.arguments = [str(folder / "work"), "5"]
        self.ledger = {"dead": lambda _: True}  # what a test has started here before is no more
        job = start.job

        def small(*arguments):
            return job(*arguments) | {"argv": [sys.executable, str(folder / "program.py"), *self.arguments]}

        monkeypatch.setattr(start, "job", small)

    def spec(self):
        config = spec.defaults()
        for name, value in self.values.items():
            config[name] = value
        return spec.resolve(config)

    def task(self):
        options = dict(say=self.said.append, clock=self.clock, times=self.policy, ledger=self.ledger)
        task = run.Run(self.spec(), ["run", "{slice}"], **options)
        task.open()
        return task

    def go(self):
        return self.task().run()

    @property
    def text(self):
        return "\n".join(self.said)

    def steps(self, host=0):
        return int((self.folder / "work" / f"step-{host}").read_text())

    def starts(self, host=0):
        return len((self.folder / "work" / f"starts-{host}").read_text())

    def wait_for_step(self, step):
        saved = self.folder / "work" / "step-0"
        wait_until(lambda: saved.exists() and self.steps() >= step, lambda: self.text)

    def in_thread(self):
        """Runs the controller beside the test; returns what waits for its end."""
        task, codes = self.task(), []

        def work():
            try:
                codes.append(task.run())
            except UserError as error:
                codes.append(str(error))

        thread = threading.Thread(target=work)
        self.threads.append(thread)
        thread.start()

        def end():
            thread.join(120)
            assert not thread.is_alive(), self.text
            return codes[0]

        return end

    def other(self):
        """The run as another process finds it."""
        other = run.Run(self.spec(), [], say=self.said.append)
        assert other.ledger.load()
        return other

    def close(self):
        """Ends the controllers that a failed test has left."""
        while any(thread.is_alive() for thread in self.threads):
            self.other().down()
            for thread in self.threads:
                thread.join(1)

    def log(self, attempt, host=0):
        return (self.folder / f"buckets/bucket/launch/r/slice-0/attempt-{attempt}/host-{host}.log").read_text()

    def outcomes(self, index=0):
        content = json.loads((self.folder / "buckets/bucket/launch/r/run.json").read_text())
        return [attempt["outcome"] for attempt in content["slices"][index]["attempts"]]


def step_until(task, condition):
    """Steps of the controller until something holds."""
    wait_until(lambda: condition() or task.step(0), lambda: "\n".join(map(str, task.ledger.records)), every=0)


def wait_for_state(task, name, state):
    wait_until(lambda: task.slices.describe(name, "us-west4-a").state is state, f"{name} is not {state}", every=0)


def arguments(bench, verb, *more):
    config = bench.folder / "config.py"
    config.write_text("from launch.spec import defaults\ndef get_config():\n    config = defaults()\n"
                      + "".join(f"    config.{name} = {value!r}\n" for name, value in bench.values.items())
                      + "    return config\n")  # fmt: skip
    return ["launch", verb, *more[:1], f"--config={config}", *more[1:]]
