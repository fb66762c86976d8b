"""The loop around `controller.decide`: looks at the slices of a run, keeps the record in the bucket, does what was decided.

It may be killed at any moment and started again, here or elsewhere, with the same command: the bucket has all it needs.
"""

import dataclasses
import hashlib
import json
import math
import pathlib
import re
import time
import types
import uuid
from collections.abc import Callable, Sequence

from launch import bundle as bundle_lib
from launch import controller
from launch.cloud import PERMANENT, CloudError, Gcloud, GcsFiles, QueuedResources, Slices, classify, delete_argv
from launch.controller import Attempt, Close, Create, Delete, End, Host, Record, Resource, Sight, Start, State, Wait
from launch.local import LocalFiles, LocalSlices
from launch.spec import Spec, owner
from redundancy.runtime.errors import WorkdirError

HERE = pathlib.Path(__file__).resolve().parent
_ACK = re.compile(r"LAUNCH-ACK (\{.*\})")
_HERE = "LAUNCH-HERE"  # what a host says that was reached
_PAUSES = (2.0, 10.0, 30.0, 60.0, 0.0)  # seconds before a record is written once more
_DENIED = re.compile(r"Permission denied \(publickey|Host key verification failed")
_START_S, _START_TRIES = 300.0, 3
_SAY_S = 60.0
_LAST_S, _LEAST_S = 300.0, 60.0  # of the budget, kept for saving and for the deletion; what the program has at least
_FOREVER = 1e12


def backend(spec: Spec) -> tuple[Slices, GcsFiles | LocalFiles]:
    """Slices and files of a spec."""
    if spec.backend == "local":
        return LocalSlices(spec), LocalFiles(spec.root)
    gcloud = Gcloud(spec.project)
    return QueuedResources(spec, gcloud), GcsFiles(spec.root, gcloud)


def fingerprint(spec: Spec, command: Sequence[str]) -> str:
    """What may not change while a run lasts."""
    fixed = [
        spec.root,
        spec.project,
        spec.backend,
        spec.accelerator_type,
        spec.slices,
        spec.hosts,
        spec.spot,
        spec.runtime_version,
        list(command),
    ]
    return hashlib.sha256(json.dumps(fixed).encode()).hexdigest()[:12]


class Ledger:
    """The records of a run's slices, in one file of the bucket; what another controller wrote is never overwritten."""

    def __init__(self, files: GcsFiles | LocalFiles, run: str, sleep: Callable[[float], None]):
        self._files, self._run, self._sleep, self.path = files, run, sleep, f"{run}/run.json"
        self._generation = 0
        self.head: dict = {}
        self.records: list[Record] = []
        self._saved: list[Record] = []  # as they are in the file

    def load(self) -> bool:
        """Whether there is one."""
        self._generation = self._files.generation(self.path)
        content = self._files.read(self.path) if self._generation else None
        if content is None:
            return False
        try:
            self.head = json.loads(content)
            self.records = [_record(each) for each in self.head.pop("slices")]
            self._saved = list(self.records)
        except (ValueError, TypeError, KeyError) as error:
            raise WorkdirError(
                f"{self._files.uri(self.path)} is no record of a run ({type(error).__name__}: {error}). Move it away, see "
                'with "python -m launch list" what exists, and start again.'
            ) from error
        return True

    def save(self) -> None:
        for pause in _PAUSES:
            try:
                self._write()
                return
            except CloudError as error:
                if error.kind in PERMANENT or not pause:
                    raise
                self._sleep(pause)

    def _write(self) -> None:
        slices = [dataclasses.asdict(record) for record in self.records]
        content = json.dumps({**self.head, "slices": slices}, indent=1).encode()
        try:
            self._files.write(self.path, content, self._generation)
        except CloudError as error:
            if error.kind != "changed":
                raise
            # Our own write may have been carried out although its answer was lost. The head names the controller, so that
            # another one's record is never taken for it.
            if self._files.read(self.path) != content:
                self.heed_stop()
                return self._write()
        self._generation, self._saved = self._files.generation(self.path), list(self.records)
        return None

    def heed_stop(self) -> None:
        """Reads that somebody asked the run to stop, which is all that may be changed beside a controller."""
        if self._files.generation(self.path) == self._generation:
            return
        found = Ledger(self._files, self._run, self._sleep)
        known = (self._saved, self.records)
        if (
            not found.load()
            or found.records not in known
            or found.head.get("controller") != self.head.get("controller")
        ):
            raise self._taken()
        self._generation, self._saved = found._generation, found.records
        if "stop" in found.head:
            self.head["stop"] = found.head["stop"]

    def _taken(self) -> WorkdirError:
        return WorkdirError(
            f"{self._files.uri(self.path)} was changed by another controller of this run, or by down; this one ends "
            'and leaves all as it is. "python -m launch status" shows what runs.'
        )


def _record(found: dict) -> Record:
    attempts = tuple(Attempt(**attempt) for attempt in found["attempts"])
    return Record(**{**found, "attempts": attempts, "end": tuple(found["end"]) if found["end"] else None})


def run_names(files: GcsFiles | LocalFiles) -> list[str]:
    return [name for name in files.names("") if name not in ("bundles", "jax_cache", "slices")]


def substituted(command: Sequence[str], spec: Spec, index: int) -> list[str]:
    """The command of one slice."""
    return [part.replace("{slice}", str(index)).replace("{slices}", str(spec.slices)) for part in command]


class Run:
    """One run: a command on each of its slices.

    Args:
      spec: with the run's name.
      command: arguments of `redundancy`.
      say: prints a line.
      slices, files: what `backend` gives, if None.
      clock: `time`, or what has its `time`, `monotonic` and `sleep`.
      bundle: the code to start; made of this checkout when the run begins, if None.
    """

    def __init__(
        self,
        spec: Spec,
        command: Sequence[str],
        say: Callable[[str], None] | None = None,
        *,
        slices: Slices | None = None,
        files: GcsFiles | LocalFiles | None = None,
        clock: types.ModuleType | types.SimpleNamespace = time,
        bundle: bundle_lib.Bundle | None = None,
    ):
        self.spec, self.command = spec, list(command)
        self.slices, self.files = (slices, files) if slices and files else backend(spec)
        self.policy = controller.policy(spec)
        self.clock, self.bundle = clock, bundle
        self.ledger = Ledger(self.files, spec.run, clock.sleep)
        self._say = say or (lambda text: print(time.strftime("%H:%M:%S"), text, flush=True))
        self._said: dict[int, tuple[str, float]] = {}
        self._beats: dict[tuple, tuple[object, float]] = {}
        self._since: dict[tuple, float] = {}
        self.is_open = False

    def name(self, index: int) -> str:
        return self.spec.slice_name(index)

    def zone(self, index: int) -> str:
        last = self.ledger.records[index].last
        return last.zone if last else self.policy.zones[0]

    def used_s(self) -> float:
        now = self.clock.time()
        return sum(record.seconds(now) for record in self.ledger.records)

    # Beginning.

    def open(self) -> None:
        """Finds the run's record, or begins one.

        Raises:
          WorkdirError: a run of this name has another command, or slices of this name are somebody else's.
        """
        mine = fingerprint(self.spec, self.command)
        if self.ledger.load():
            if self.ledger.head["fingerprint"] != mine:
                raise WorkdirError(
                    f"there is a run {self.spec.run} of another command or kind of slice: "
                    f"{' '.join(self.ledger.head['command'])!r} on {self.ledger.head['kind']}. Choose another --config.run, "
                    f'or end that one ("python -m launch down {self.spec.run}") and remove {self.files.uri(self.spec.run)}.'
                )
            if all(record.end for record in self.ledger.records):
                self._reopen()
        else:
            self.ledger.head = {
                "run": self.spec.run,
                "fingerprint": mine,
                "command": self.command,
                "kind": self.spec.accelerator_type if self.spec.backend != "local" else "local",
                "owner": owner(),
                "began": self.clock.time(),
            }
            self.ledger.records = [Record(self.name(index)) for index in range(self.spec.slices)]
        self.ledger.head.pop("stop", None)
        self.ledger.head["controller"] = uuid.uuid4().hex
        self._adopt()
        self.bundle = self.bundle or bundle_lib.make(HERE.parent)
        self.ledger.save()
        self.is_open = True

    def _reopen(self) -> None:
        """A run that ended otherwise than well goes on, with fresh budgets but for the chip-hours."""
        for index, record in enumerate(self.ledger.records):
            base = record.last.number if record.last else 0
            end = record.end if record.end and record.end[0] == controller.DONE else None
            self.ledger.records[index] = dataclasses.replace(record, end=end, base=base)
        if any(record.end is None for record in self.ledger.records):
            self.ledger.head["began"] = self.clock.time()

    def _adopt(self) -> None:
        """Takes over slices that exist and that the record does not tell of."""
        for resource in self.slices.existing():
            for index, record in enumerate(self.ledger.records):
                known = record.last is not None and record.last.zone == resource.zone
                if resource.name != record.name or known:
                    continue
                self._check_ours(resource)
                if record.last is not None and record.last.outcome is None:
                    raise WorkdirError(
                        f"there are two slices {record.name}, in {record.last.zone} and {resource.zone}."
                    )
                now, number = self.clock.time(), record.last.number + 1 if record.last else 1
                attempt = Attempt(number, resource.zone, now, created=now)
                self.ledger.records[index] = dataclasses.replace(record, attempts=(*record.attempts, attempt), end=None)

    def _check_ours(self, resource: Resource) -> None:
        found = resource.labels
        mine = (self.ledger.head["fingerprint"], self.ledger.head["owner"])
        if (found.get("hash"), found.get("owner")) != mine:
            raise WorkdirError(
                f"there is a slice {resource.name} in {resource.zone}, of owner {found.get('owner')} and with another "
                f"command: choose another --config.run, or delete it ({self.how_to_delete(resource)})."
            )

    def how_to_delete(self, resource: Resource) -> str:
        if self.spec.backend == "local":
            return f"python -m launch down {self.spec.run}"
        return " ".join(delete_argv(Gcloud(self.spec.project), resource.name, resource.zone))

    # The loop.

    def run(self) -> int:
        """Until nothing is left to do; the exit code: the worst of the slices'."""
        while True:
            try:
                self.ledger.heed_stop()
            except CloudError as error:
                self._say(f"the bucket does not answer: {_first_line(error)}")
            for index in range(len(self.ledger.records)):
                if self.ledger.records[index].end is None:
                    self.step(index)
            if all(record.end for record in self.ledger.records):
                return max((record.end[0] for record in self.ledger.records), key=lambda code: (code == 1, code))
            self.clock.sleep(self.spec.poll_s)

    def step(self, index: int) -> None:
        """One look at a slice, and what follows from it."""
        resource = self.slices.describe(self.name(index), self.zone(index))
        if resource.state not in (State.ABSENT, State.UNKNOWN):
            self._check_ours(resource)
        self._update(index, controller.seen(self.ledger.records[index], resource, self.clock.time()))
        try:
            sight = self._look(index, resource)
        except CloudError as error:
            if error.kind in PERMANENT:
                raise
            # What the hosts have told cannot be read: nothing is known, as where the slice cannot be seen.
            resource = dataclasses.replace(resource, state=State.UNKNOWN, message=_first_line(error))
            sight = Sight(resource=resource, **self._counts())
        while True:
            record = self.ledger.records[index]
            action = controller.decide(record, sight, self.policy)
            self._tell(index, action)
            # Saved before each action, changed or not: a controller whose place another one has taken may not act.
            self._update(
                index, controller.after(record, action, self.clock.time()), always=not isinstance(action, Wait)
            )
            self._do(index, action, resource, record)
            if not isinstance(action, Close):
                return
            if action.outcome in ("failed", "refused") and (
                bad := [host for host in sight.hosts if host.code and host.tail]
            ):
                first = controller.first_to_fail(bad)
                self._say(f"{self.name(index)}: last lines of host {first.worker}:\n{first.tail}")
            sight = dataclasses.replace(sight, **self._counts())

    def _update(self, index: int, record: Record, always: bool = False) -> None:
        if always or record != self.ledger.records[index]:
            self.ledger.records[index] = record
            self.ledger.save()

    def _counts(self) -> dict:
        records, now = self.ledger.records, self.clock.time()
        return dict(
            now=now,
            failures=sum(controller.failures(record, self.policy) for record in records),
            preemptions=sum(map(controller.preemptions, records)),
            stop="stop" in self.ledger.head,
            run_s=now - self.ledger.head["began"],
            used_s=self.used_s(),
        )

    def _look(self, index: int, resource: Resource) -> Sight:
        last = self.ledger.records[index].last
        hosts, quiet, failing = (), 0.0, 0.0
        if resource.state is not State.UNKNOWN and last and last.started and last.outcome is None:
            statuses = self.statuses(index, last.number)
            hosts = tuple(_host(status) for status in statuses)
            beats = {status["worker"]: status["beat"] for status in statuses}
            waiting = set(range(last.hosts)) - {host.worker for host in hosts if host.code is not None}
            quiet = max((self._quiet((index, last.number, host), beats.get(host)) for host in waiting), default=0.0)
            failing = self._for((index, last.number, "failing"), any(host.code for host in hosts))
        unready = self._for((index, "unready"), resource.state is State.ACTIVE and not resource.ready)
        return Sight(
            resource=resource,
            hosts=hosts,
            num_hosts=last.hosts if last else 0,
            quiet_s=quiet,
            unready_s=unready,
            failing_s=failing,
            **self._counts(),
        )

    def _quiet(self, key: tuple, beat: object) -> float:
        """Seconds on this clock since a host's beat changed: the hosts' clocks may be off."""
        now = self.clock.monotonic()
        if key not in self._beats or beat not in (None, self._beats[key][0]):
            self._beats[key] = (beat, now)
        return now - self._beats[key][1]

    def _for(self, key: tuple, holds: bool) -> float:
        """Seconds for which something has held."""
        if not holds:
            self._since.pop(key, None)
            return 0.0
        return self.clock.monotonic() - self._since.setdefault(key, self.clock.monotonic())

    def statuses(self, index: int, attempt: int) -> list[dict]:
        """What the hosts of an attempt have told last."""
        found = []
        for line in self.files.lines(f"{self.folder(index, attempt)}/host-*.json"):
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return sorted(found, key=lambda status: status["worker"])

    def folder(self, index: int, attempt: int) -> str:
        return f"{self.spec.run}/slice-{index}/attempt-{attempt}"

    def _tell(self, index: int, action: controller.Action) -> None:
        name = self.name(index)
        match action:
            case Wait():
                kind, now = action.why.partition(":")[0], self.clock.monotonic()
                before, at = self._said.get(index, ("", -math.inf))
                if kind != before or now - at > _SAY_S:
                    self._say(f"{name}: {'' if kind.startswith(('running', 'setting')) else 'waits for '}{action.why}")
                    self._said[index] = (kind, now)
                return
            case Create():
                self._say(f"{name}: asks for a slice in {action.zone} (attempt {action.attempt})")
            case Start():
                self._say(f"{name}: starts the program on all hosts (attempt {action.attempt})")
            case Close():
                self._say(f"{name}: {action.outcome}: {action.detail}")
            case Delete():
                self._say(f"{name}: deletes the slice")
            case End():
                self._say(f"{name}: {'done' if action.code == 0 else 'ended'}: {action.message}")
        self._said.pop(index, None)

    # Actions.

    def _do(self, index: int, action: controller.Action, resource: Resource, before: Record) -> None:
        try:
            match action:
                case Create():
                    self._create(index, action, before)
                case Start():
                    self._start(index, action.attempt, resource)
                case Delete():
                    self.slices.delete(self.name(index), self.zone(index))
        except CloudError as error:
            # A slice in some states cannot be deleted just then, which is called invalid.
            if error.kind in PERMANENT and not (isinstance(action, Delete) and error.kind == "invalid"):
                raise
            self._say(f"{self.name(index)}: {error}")

    def labels(self, index: int) -> dict[str, str]:
        left = self.policy.budget_s - self.used_s()  # a slice may use what the others leave
        expires = self.clock.time() + self.spec.wait_hours * 3600 + left
        return {
            "app": "redundancy",
            "owner": self.ledger.head.get("owner", owner()),
            "run": self.spec.run,
            "slice": str(index),
            "hash": fingerprint(self.spec, self.command),
            **({"expires": str(round(expires))} if math.isfinite(left) else {}),
        }

    def left_s(self) -> float:
        """Seconds that each of the slices that have not ended may still last."""
        working = sum(record.end is None for record in self.ledger.records) or self.spec.slices
        return (self.policy.budget_s - self.used_s()) / working

    def _create(self, index: int, action: Create, before: Record) -> None:
        try:
            self.slices.create(self.name(index), action.zone, self.labels(index), self.left_s())
        except CloudError as error:
            record, now, detail = self.ledger.records[index], self.clock.time(), _first_line(error)
            outcome = "capacity" if error.kind in ("capacity", "unavailable") else "refused"
            if error.kind == "capacity" or error.kind in PERMANENT:
                self._tell(index, Close(outcome, detail))
                return self._update(index, controller.refused(record, before, outcome, detail, now))
            self._say(f"{self.name(index)}: {error}")
            return self._update(index, controller.unanswered(record, self.policy, outcome, detail, now))
        self._update(index, controller.created(self.ledger.records[index], self.clock.time()))

    def _close(self, index: int, outcome: str, detail: str) -> None:
        action = Close(outcome, detail)
        self._tell(index, action)
        self._update(index, controller.after(self.ledger.records[index], action, self.clock.time()))

    def job(self, index: int, attempt: int, zone: str) -> dict:
        """What the workers of an attempt have to know."""
        spec, name = self.spec, self.name(index)
        local, left = spec.backend == "local", self.left_s()
        command = substituted(self.command, spec, index)
        python = spec.interpreter or ".launch-venv/bin/python"
        setup = ["bash", "launch/setup_worker.sh", spec.python, ",".join(spec.extras)]
        return {
            "mark": spec.mark(name),
            "argv": [python, "-m", "redundancy", *command, *(["--debug"] if "--debug" not in command else [])],
            # What was compiled before a preemption is not compiled again after it.
            "env": {**({} if local else {"JAX_COMPILATION_CACHE_DIR": self.files.uri("jax_cache")}), **dict(spec.env)},
            "mirror": self.files.uri(self.folder(index, attempt)),
            "mirror_s": spec.mirror_s,
            "setup": None if spec.interpreter else setup,
            "expires": self.clock.time() + max(_LEAST_S, left - _LAST_S) if math.isfinite(left) else _FOREVER,
            "idle_s": spec.idle_minutes * 60,
            "delete": delete_argv(Gcloud(spec.project), name, zone) if spec.self_delete and not local else None,
            "devices": [] if local else list(spec.devices),
        }

    def bootstrap(self, verb: str, index: int, attempt: int, sha256: str) -> list[str]:
        """The command that the hosts are given."""
        script = (HERE / "bootstrap.sh").read_text()
        job = self.files.uri(f"{self.folder(index, attempt)}/job.json")
        uri = self.files.uri(f"bundles/{sha256}.tar.gz")
        return ["sh", "-c", script, "launch", uri, sha256, verb, job, str(attempt)]

    def _start(self, index: int, attempt: int, resource: Resource) -> None:
        assert self.bundle is not None
        if not self.files.generation(self.bundle.name):
            self.files.write(self.bundle.name, self.bundle.data)
        job = json.dumps(self.job(index, attempt, resource.zone)).encode()
        self.files.write(f"{self.folder(index, attempt)}/job.json", job)
        argv = self.bootstrap("start", index, attempt, self.bundle.sha256)
        acks, said = self._ask(index, argv, resource)
        if (
            not acks
            and _HERE not in said
            and (_DENIED.search(said) or classify(said).kind in ("account", "permission"))
        ):
            return self._close(index, "refused", f"ssh: {said.strip()[-500:]}")
        if busy := [ack for ack in acks.values() if ack["state"] == "busy"]:
            held = "; ".join(f"host {ack['worker']}: {_held(holder)}" for ack in busy for holder in ack["holders"])
            return self._close(index, "refused", f"the chips are in use by processes that are not of this run ({held})")
        if wrong := [ack for ack in acks.values() if ack["state"] == "error"]:
            return self._close(index, "failed", f"host {wrong[0]['worker']}: {wrong[0]['message']}")
        missing = sorted(set(range(resource.hosts)) - acks.keys())
        if missing or not resource.hosts:
            # A host that was reached, and did not get as far as that, will not do so on another slice either.
            outcome = "failed" if _HERE in said else "unfit"
            last = "\n".join(said.replace(_HERE, "").strip().splitlines()[-5:])
            return self._close(index, outcome, f"hosts {missing} did not start the program: {last}")
        self._update(
            index, controller.started(self.ledger.records[index], self.clock.time(), self.bundle.sha256, resource.hosts)
        )

    def _ask(self, index: int, argv: Sequence[str], resource: Resource) -> tuple[dict[int, dict], str]:
        """Acknowledgements by worker, asked for again where they are missing; and what else was said the last time.

        The exit code of an ssh to many hosts tells nothing: gcloud gives 0 where it reached none.
        """
        acks: dict[int, dict] = {}
        said = ""
        for _ in range(_START_TRIES):
            missing = sorted(set(range(resource.hosts)) - acks.keys())
            workers = missing if acks else ()
            said = self.slices.execute(self.name(index), resource.zone, argv, workers, _START_S)
            for text in _ACK.findall(said):
                try:
                    ack = json.loads(text)
                    acks[int(ack["worker"])] = ack
                except (ValueError, KeyError, TypeError):
                    continue
            if set(range(resource.hosts)) <= acks.keys():
                break
            self.clock.sleep(self.spec.poll_s)
        return acks, _ACK.sub("", said)

    # By hand.

    def stop(self) -> None:
        """Asks the controller to start nothing more, and the programs to save and end."""
        self._mark(lambda: self.ledger.head.update(stop=self.clock.time()))
        for index, record in enumerate(self.ledger.records):
            last = record.last
            if last is None or last.outcome is not None or not last.started:
                continue
            resource = self.slices.describe(self.name(index), last.zone)
            acks, said = self._ask(index, self.bootstrap("stop", index, last.number, last.bundle), resource)
            asked = f"hosts {sorted(acks)} were asked to save and end"
            self._say(f"{self.name(index)}: {asked if acks else f'no host answered: {said.strip()[-500:]}'}")

    def down(self) -> None:
        """Deletes the run's slices in a controller's place, and returns when they are gone and none can come any more."""
        self._mark(self._take_down)
        while True:
            for index, record in enumerate(self.ledger.records):
                try:
                    if record.end is None:
                        self.step(index)
                except CloudError as error:  # the others are deleted all the same
                    self._say(f"{self.name(index)}: {error}")
            if all(record.end for record in self.ledger.records):
                return
            self.clock.sleep(self.spec.poll_s)

    def _mark(self, change: Callable[[], None]) -> None:
        """Changes the record, although a controller may be changing it."""
        for attempt in range(5):
            change()
            try:
                return self.ledger.save()
            except WorkdirError:
                if attempt == 4:
                    raise
                self.ledger.load()

    def _take_down(self) -> None:
        """Closes all attempts; slices of a run that had ended are looked for once more."""
        now = self.clock.time()
        self.ledger.head |= {"stop": now, "controller": uuid.uuid4().hex}
        for index, record in enumerate(self.ledger.records):
            if record.last is None:
                self.ledger.records[index] = dataclasses.replace(record, end=(controller.STOPPED, "taken down"))
                continue
            if record.last.outcome is None:
                record = controller.after(record, Close("stopped", "taken down"), now)
            self.ledger.records[index] = dataclasses.replace(record, end=None)

    def remaining(self) -> list[str]:
        """What may still run, and how to end it, a line each."""
        return [
            f"{record.name} in {record.last.zone}, {self.spec.chips} chips"
            for record in self.ledger.records
            if record.last is not None and record.end is None
        ]


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _host(status: dict) -> Host:
    return Host(
        worker=status["worker"],
        code=status.get("code"),
        ended=status.get("ended", 0.0),
        stopped=status.get("stopped", False),
        expired=status.get("expired", False),
        setup=status["state"] == "setup" or status.get("setup", False),
        line=status.get("line", ""),
        tail=status.get("tail", ""),
    )


def _held(holder: dict) -> str:
    return f"{holder['device']} by process {holder['pid']} of {holder['user']}: {holder['command']}"
