"""A program of test_survival.py: runs the command line many times, each time in a forked process, so that imports cost once.

Reads lines of JSON: {"argv": [...], "log": path, "root": workdir, "event": n, "signal": name}. The child gets the signal
just before its n-th write, rename or removal below the workdir (none where n is null), or the parent sends it after "seconds".
Answers with {"status": exit code, negative for a signal, "events": how many it came to}. No backend of JAX is started here.
"""

import contextlib
import json
import os
import signal
import sys
import threading

import redundancy.data
import redundancy.embedding.extract
import redundancy.experiment
import redundancy.main
import redundancy.report.stage
import redundancy.selection.stages
import redundancy.training.pretrain

_OF_FILES = {"open", "os.rename", "os.remove", "os.mkdir", "os.link", "os.rmdir"}


def child(argv, log, root, event=None, signal_name="SIGKILL", counter=None):
    """Runs the command line; never returns."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    seen = 0
    lock = threading.Lock()

    def hook(name, arguments):
        nonlocal seen
        if name not in _OF_FILES or not arguments or not isinstance(arguments[0], str):
            return
        if name == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        if not arguments[0].startswith(root):
            return
        with lock:
            seen += 1
            os.pwrite(counter, b"%d" % seen, 0)
            if seen == event:
                os.kill(os.getpid(), getattr(signal, signal_name))

    sys.addaudithook(hook)
    sys.argv = ["redundancy", *argv]
    redundancy.main.command()


def main():
    for line in sys.stdin:
        assert threading.active_count() == 1
        asked = json.loads(line)
        counter_path = asked["log"] + ".events"
        counter = os.open(counter_path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                child(asked["argv"], asked["log"], asked["root"], asked.get("event"), asked["signal"], counter)
            os._exit(99)
        timer = None
        if asked.get("seconds") is not None:
            timer = threading.Timer(asked["seconds"], os.kill, (pid, getattr(signal, asked["signal"])))
            timer.start()
        _, status = os.waitpid(pid, 0)
        if timer is not None:
            timer.cancel()
            timer.join()
        events = int(os.pread(counter, 20, 0) or b"0")
        os.close(counter)
        print(json.dumps({"status": os.waitstatus_to_exitcode(status), "events": events}), flush=True)


main()
