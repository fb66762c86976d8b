"""The record of a run in the bucket, which one controller holds at a time.

A save replaces only the generation of the file that the holder itself has read or written. So if another controller has taken
over the record, the next save fails, and every action comes after a save. The record also has the holder's name and time, so
that a second controller can be refused immediately.
"""

import contextlib
import dataclasses
import getpass
import json
import os
import socket
import time
import uuid
from collections.abc import Callable

from launch.backends import PERMANENT, CloudError
from launch.records import Record
from redundancy.runtime.errors import WorkdirError

LEASE_S = 600.0  # a holder that has not saved for this time counts as dead
_RENEW_S = 120.0
PAUSES = (2.0, 10.0, 30.0, 60.0, 0.0)  # seconds between tries to write a record


def ended(holder: dict) -> bool:
    """Whether the holder was a process of this machine that has ended."""
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return holder["machine"] == socket.gethostname()
    except PermissionError:
        pass
    return False


class Ledger:
    """Records of a run's slices, in RUN/run.json. The file RUN/stop asks the holder to stop; anybody may write it.

    `clock` has `time` and `sleep`, like the module `time`. `dead` tells whether a holder is known to be dead, even if its last
    save is recent.
    """

    def __init__(self, files, run: str, clock=time, dead: Callable[[dict], bool] = ended, pauses=PAUSES):
        self._files, self._clock, self._dead, self._pauses = files, clock, dead, pauses
        self.path, self._stop = f"{run}/run.json", f"{run}/stop"
        me = {"user": getpass.getuser(), "machine": socket.gethostname(), "pid": os.getpid()}
        self._me = {**me, "id": uuid.uuid4().hex, "since": clock.time()}
        self._known: list[bytes | None] = [None]  # possible contents of the file: as read, or written without an answer
        self.held = False  # whether this process holds the record, as far as it knows
        self.head: dict = {}
        self.records: list[Record] = []

    def load(self) -> bool:
        """Loads the record; returns whether there is one."""
        content = self._files.read(self.path) if self._files.generation(self.path) else None
        self._known = [content]
        if content is None:
            return False
        try:
            self.head = json.loads(content)
            self.records = [Record.of(each) for each in self.head.pop("slices")]
        except (ValueError, TypeError, KeyError) as error:
            what = f"{self._files.uri(self.path)} is no record of a run ({type(error).__name__}: {error})"
            raise WorkdirError(f'{what}. Move it away, see what exists ("list"), and start again.') from error
        return True

    @property
    def mine(self) -> bool:
        return (self.head.get("holder") or {}).get("id") == self._me["id"]

    def take(self, force: bool = False) -> None:
        """Makes this process the holder, from its next save on; raises WorkdirError if another process is the holder."""
        holder = self.head.get("holder")
        if holder and not self.mine and not force and not self._dead(holder):
            silent = self._clock.time() - holder["seen"]
            if silent < LEASE_S:
                raise WorkdirError(
                    f'another controller holds this run: {self.holder()}. "status" shows what it does, "down" ends the run. '
                    f"If it is dead, this command goes on at once on its machine, elsewhere after {LEASE_S - silent:.0f} s."
                )
        self.head["holder"] = dict(self._me)
        self.head["stops"] = self._files.generation(self._stop)  # ignores requests to earlier holders

    def save(self) -> None:
        if self.mine:
            self.head["holder"]["seen"] = self._clock.time()
        for pause in self._pauses:
            try:
                return self._write()
            except CloudError as error:
                if error.kind in PERMANENT or not pause:
                    raise
                self._clock.sleep(pause)

    def _write(self) -> None:
        slices = [dataclasses.asdict(record) for record in self.records]
        content = json.dumps({**self.head, "slices": slices}, indent=1).encode()
        generation = self._files.generation(self.path)
        found = self._files.read(self.path) if generation else None
        if found not in self._known:
            what = f"another controller, or down, has taken over the run ({self._files.uri(self.path)} was changed)."
            raise WorkdirError(f'{what} This one ends and leaves all as it is; "status" shows what runs.')
        self._known.append(content)
        self._files.write(self.path, content, generation)
        self._known, self.held = [content], self.mine

    def renew(self) -> None:
        """Saves that the holder is alive, if its last save was some time ago."""
        if self.held and self._clock.time() - self.head["holder"]["seen"] > _RENEW_S:
            self.save()

    def release(self) -> None:
        """Releases the run for the next controller, which has to wait if the bucket does not answer now."""
        if self.held:
            self.head["holder"] = None
            with contextlib.suppress(WorkdirError, CloudError):
                self._write()

    def holder(self) -> str:
        holder = self.head.get("holder")
        if not holder:
            return "none"
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(holder["since"]))
        who = f"{holder['user']} on {holder['machine']} (process {holder['pid']}, since {since})"
        return f"{who}, last saved {self._clock.time() - holder['seen']:.0f} s ago"

    def ask_to_stop(self) -> None:
        self._files.write(self._stop, json.dumps({"user": self._me["user"], "time": self._clock.time()}).encode())

    def asked_to_stop(self) -> bool:
        return self._files.generation(self._stop) != self.head.get("stops", 0)
