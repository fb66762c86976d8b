"""Runs the command line many times, each time in a forked process, so that imports cost once.

As a program it reads a request a line, of JSON: {"argv": [...], "env": {...}, "cwd": folder, "output": [stdout, stderr],
"root": folder, "event": n, "seconds": s, "signal": name}. The child gets the signal just before its n-th write, rename or removal below
`root`, or `seconds` after its start; never if both are null. The answer is {"status": exit code, negative for a signal,
"events": how many there were}. No backend of JAX is started here.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import traceback

REPO = pathlib.Path(__file__).resolve().parents[1]
_OF_FILES = {"open", "os.rename", "os.remove", "os.mkdir", "os.link", "os.rmdir"}


class Server:
    """A process that runs the command line in processes forked from it."""

    def __init__(self, environment: dict[str, str], folder: pathlib.Path):
        self._environment, self._folder, self._count = environment, folder, 0
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            cwd=REPO,
            env={**environment, "PYTHONPATH": str(REPO)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, argv, env=None, cwd=REPO, root="", **kill) -> tuple[subprocess.CompletedProcess, int]:
        """The finished command, and how many times it touched a file below `root`."""
        self._count += 1
        output = [str(self._folder / f"{self._count}.{name}") for name in ("out", "err")]
        asked = {
            "argv": [*map(str, argv)], "env": env or self._environment, "cwd": str(cwd), "root": str(root),
            "output": output,
        }  # fmt: skip
        self._process.stdin.write(
            json.dumps({"event": None, "seconds": None, "signal": "SIGKILL", **asked, **kill}) + "\n"
        )
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        said = [pathlib.Path(path).read_text(errors="replace") for path in output]
        return subprocess.CompletedProcess(asked["argv"], answer["status"], *said), answer["events"]

    def close(self):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=60)


def _child(asked: dict, counter: int) -> None:
    """Runs the command line; never returns."""
    import redundancy.cli.main

    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in enumerate(asked["output"], start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    seen = 0
    lock = threading.Lock()

    def hook(name, arguments):
        nonlocal seen
        if name not in _OF_FILES or not arguments or not isinstance(arguments[0], str):
            return
        if name == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        if not arguments[0].startswith(asked["root"]):
            return
        with lock:
            seen += 1
            os.pwrite(counter, b"%d" % seen, 0)
            if seen == asked["event"]:
                os.kill(os.getpid(), getattr(signal, asked["signal"]))

    if asked["root"]:
        sys.addaudithook(hook)
    sys.argv = ["redundancy", *asked["argv"]]
    redundancy.cli.main.command()


def main() -> None:
    import redundancy.cli.main
    import redundancy.data
    import redundancy.embedding.extract
    import redundancy.experiment.sweep
    import redundancy.report.stage
    import redundancy.selection.link
    import redundancy.selection.select
    import redundancy.training.pretrain  # noqa: F401

    for line in sys.stdin:
        assert threading.active_count() == 1
        asked = json.loads(line)
        counter_path = asked["output"][0] + ".events"
        counter = os.open(counter_path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        pid = os.fork()
        if pid == 0:
            try:
                _child(asked, counter)
            except BaseException:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        timer = None
        if asked["seconds"] is not None:
            timer = threading.Timer(asked["seconds"], os.kill, (pid, getattr(signal, asked["signal"])))
            timer.start()
        _, status = os.waitpid(pid, 0)
        if timer is not None:
            timer.cancel()
            timer.join()
        events = int(os.pread(counter, 20, 0) or b"0")
        os.close(counter)
        print(json.dumps({"status": os.waitstatus_to_exitcode(status), "events": events}), flush=True)


if __name__ == "__main__":
    main()
