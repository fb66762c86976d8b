"""The command line of the launcher."""

import contextlib
import dataclasses
import datetime
import functools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

from absl import flags
from ml_collections import config_flags

from launch import bundle as bundle_lib
from launch import controller
from launch import run as run_lib
from launch import spec as spec_lib
from launch.cloud import CloudError, Gcloud
from launch.controller import Resource, State
from launch.spec import Spec
from redundancy.runtime.errors import ConfigError, UserError, nearest

USAGE = """\
launch: runs a redundancy command on Cloud TPU slices, and brings it back after every preemption.

  python -m launch run --config launch/configs/v5e_spot.py --config.bucket=gs://BUCKET --config.budget_chip_hours=200 \\
      -- run --config configs/imagenet.py --workdir gs://BUCKET/imagenet

  plan       prints what run would do: commands, chips, the most it can cost; creates nothing
  preflight  checks gcloud, project, zones, bucket and keys, and compiles the config for the slice
  run        asks for the slices, starts the command on every host, watches, recovers, deletes; returns at the end
  status RUN   what exists and what each host does;  logs RUN [-f] [--host=N] [--slice=N]: a host's log, also afterwards
  stop RUN     the programs save and end, and run deletes the slices;  down RUN: deletes the slices now
  list       slices of this launcher, in all zones;  gc [--yes]: leftovers, and deletes them

Whatever comes after -- are the arguments of redundancy; {slice} and {slices} in them become the number of the slice and how
many there are (--part={slice}/{slices} shares a sweep). The same command is the same run: give it again after Ctrl-C,
a crash or on another machine, and it goes on. status, logs, stop and down want the same --config, and the name that run prints.

  --config             a Python file with get_config(); launch/configs/ has v4_spot, v5e_spot, v6e, local
  --config.FIELD=VALUE overrides a field; the fields are below
  --delete-on-exit     Ctrl-C also deletes the slices

Exit codes: 0 done, 1 an error, 2 a wrong command, 75 stopped and saved, 130 Ctrl-C (what still runs is told).
"""
VERBS = ("plan", "preflight", "run", "status", "logs", "stop", "down", "list", "gc")
_OF_A_RUN = ("status", "logs", "stop", "down")
_OF_A_COMMAND = ("plan", "preflight", "run")

_FLAGS = flags.FlagValues()  # of one command line


def _defined() -> flags.FlagValues:
    """The flags, none of them given; those of the package, some of the same names, are left alone."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "Launch config.", flag_values=values)
    flags.DEFINE_bool("follow", False, "logs: goes on as the log grows.", short_name="f", flag_values=values)
    flags.DEFINE_integer("host", 0, "logs: which host.", lower_bound=0, flag_values=values)
    flags.DEFINE_integer("slice", 0, "logs: which slice.", lower_bound=0, flag_values=values)
    flags.DEFINE_bool("yes", False, "gc: deletes.", flag_values=values)
    flags.DEFINE_bool("delete_on_exit", False, "run: Ctrl-C deletes the slices.", flag_values=values)
    return values


def say(text: str) -> None:
    print(text, flush=True)


def _check_command(command: list[str], spec: Spec) -> None:
    """Tells a wrong redundancy command before anything costs money.

    Raises:
      ConfigError: it is wrong.
    """
    if not command:
        raise ConfigError("there is no command after --; for example: -- run --config configs/digits.py --workdir DIR")
    if any(re.match(r"--?(coordinator|num[-_]processes|process[-_]id)\b", part) for part in command):
        raise ConfigError("--coordinator, --num-processes and --process-id are given by launch; leave them out.")
    if spec.slices > 1 and not any("{slice}" in part for part in command):
        raise ConfigError(
            f"slices is {spec.slices}, but the command is the same on each of them. Put {{slice}} where they differ, for "
            "example --part={slice}/{slices} for a sweep, or the name of the workdir."
        )
    for index in range(spec.slices):
        shown = run_lib.substituted(command, spec, index)
        workdir = _workdir(shown)
        if workdir is None:
            raise ConfigError("the command has no --workdir; wanted one that outlives the slice.")
        if spec.backend != "local" and not workdir.startswith("gs://"):
            raise ConfigError(
                f"--workdir {workdir} is on a host's disk, which ends with the slice; wanted gs://BUCKET/PATH."
            )
        if spec.backend == "local" and not (workdir.startswith("gs://") or os.path.isabs(workdir)):
            raise ConfigError(f"--workdir {workdir} is relative; wanted a whole path: hosts have folders of their own.")
        if index == 0:
            code = "import sys; from redundancy.cli import main; sys.exit(main.check(['redundancy', *sys.argv[1:]]))"
            env = {**os.environ, "JAX_PLATFORMS": "cpu"}
            done = subprocess.run([sys.executable, "-c", code, *shown], env=env, cwd=run_lib.HERE.parent, check=False)
            if done.returncode:
                raise ConfigError("the command after -- is wrong, see above; nothing was created.")


def _workdir(command: list[str]) -> str | None:
    for part, following in zip(command, [*command[1:], None], strict=True):
        if part in ("--workdir", "-workdir"):
            return following
        if part.startswith(("--workdir=", "-workdir=")):
            return part.split("=", 1)[1]
    return None


def _named(spec: Spec, command: list[str]) -> Spec:
    """The spec with a name for the run: of the command's experiment, and of a hash of all that makes it this run."""
    if spec.run:
        return spec
    config = next((part.split("=", 1)[-1] for part in command if part.endswith(".py") or ".py:" in part), command[0])
    stem = re.sub(r"[^a-z0-9]+", "-", os.path.basename(config).split(".py")[0].lower()).strip("-")[:24]
    digest = run_lib.fingerprint(spec, command)[:6]
    return dataclasses.replace(spec, run=f"{stem if stem[:1].isalpha() else 'run'}-{digest}")


# Before a run.


def _cost(spec: Spec, chip_hours: float) -> str:
    money = f", {spec.usd_per_chip_hour * chip_hours:,.0f} USD" if spec.usd_per_chip_hour else ""
    return f"{chip_hours:,.1f} chip-hours{money}"


def _region_note(spec: Spec) -> str | None:
    """A warning where the bucket is not in the region of the zones; None where it is."""
    bucket = spec.bucket.split("/")[2]
    try:
        argv = ["gcloud", "storage", "buckets", "describe", f"gs://{bucket}", "--format=value(location)"]
        location = Gcloud().run(argv, timeout=30).decode().strip().lower()
    except UserError as error:
        return f"where gs://{bucket} is could not be found out: {str(error).splitlines()[0]}"
    far = [zone for zone in spec.zones if zone.rpartition("-")[0] != location]
    multi = {"us": "us-", "eu": "europe-", "asia": "asia-"}.get(location)
    if not far or (multi and all(zone.startswith(multi) for zone in far)):
        return None
    return (
        f"WARNING: gs://{bucket} is in {location}, {', '.join(far)} not: every read and write crosses regions, which is slow "
        "and billed by the byte. Take a bucket in the region of the zones."
    )


def plan(spec: Spec, command: list[str]) -> int:
    run = run_lib.Run(spec, command)
    bundle = bundle_lib.make(run_lib.HERE.parent)
    run.ledger.records = [run_lib.Record(run.name(index)) for index in range(spec.slices)]
    local = spec.backend == "local"
    say(f"run         {spec.run}")
    say(f"code        {len(bundle.files)} files, {len(bundle.data) / 2**20:.1f} MiB, {run.files.uri(bundle.name)}")
    kind = f"{spec.hosts} local processes" if local else f"{spec.accelerator_type} ({spec.chips} chips)"
    how = "" if local else ", spot" if spec.spot else ", reserved" if spec.reserved else ", on demand"
    say(f"slices      {spec.slices} × {kind}{how}, zones {', '.join(run.policy.zones)}")
    if not local:
        hours = spec.budget_hours
        say(
            f"at most     {_cost(spec, spec.budget_chip_hours)}: all slices at once for {hours:.1f} h, then the programs save "
            f"and end; {_cost(spec, spec.chips * spec.slices)} each hour"
        )
        say(
            f"gives up    after {spec.max_failures} failures, {spec.max_preemptions} preemptions, {spec.give_up_hours:g} h"
        )
        if note := _region_note(spec):
            say(note)
    for index in range(spec.slices):
        name = run.name(index)
        job = run.job(index, 1, run.policy.zones[0])
        say(f"\n# slice {index}, on each host: {shlex.join(job['argv'])}")
        for line in run.slices.plan(
            name,
            run.policy.zones[0],
            run.labels(index),
            run.left_s(),
            run.bootstrap("start", index, 1, bundle.sha256),
        ):
            say(line)
    say("\nNothing was created.")
    return 0


def preflight(spec: Spec, command: list[str]) -> int:
    """Checks what a run would stumble over; the exit code."""
    failed = False

    def check(what: str, look, wanted: str) -> None:
        nonlocal failed
        try:
            found = look()
        except (UserError, ValueError) as error:
            failed, found = True, f"FAILED: {str(error).splitlines()[0]}. Wanted: {wanted}"
        say(f"{what:14} {found}")

    def need(value: str, error: str) -> str:
        if not value:
            raise UserError(error)
        return value

    gcloud = Gcloud(spec.project)

    def text(*args: str) -> str:
        return gcloud.run(["gcloud", *args]).decode().strip()

    def listed(*args: str, name: str, zone: str) -> str:
        found = json.loads(gcloud.run([*gcloud.argv("compute", "tpus", *args, zone=zone), "--format=json"]))
        names = [entry.get("name", "").rsplit("/", 1)[-1] for entry in found]
        return need(name if name in names else "", f"there is no {name} in {zone}, but {', '.join(names) or 'nothing'}")

    check("code", lambda: f"{len(bundle_lib.make(run_lib.HERE.parent).data) / 2**20:.1f} MiB", "a git checkout")
    if spec.backend != "local":
        account = ("auth", "list", "--filter=status:ACTIVE", "--format=value(account)")
        check("account", lambda: need(text(*account), "nobody is logged in"), "gcloud auth login")
        project = ("config", "get", "project")
        check(
            "project",
            lambda: spec.project or need(text(*project), "no project"),
            "gcloud config set project, or --config.project",
        )
        for zone in spec.zones:
            for kind, name, wanted in (
                (("accelerator-types", "list"), spec.accelerator_type, "a zone that has it"),
                (("tpu-vm", "versions", "list"), spec.runtime, "--config.runtime_version"),
            ):
                check(zone, functools.partial(listed, *kind, name=name, zone=zone), wanted)
        key = os.path.expanduser("~/.ssh/google_compute_engine")
        check("ssh key", lambda: _check_key(key), "a key without a passphrase, or one that an agent holds")
        check(
            "bucket", lambda: _region_note(spec) or "in the region of the zones", "a bucket in the region of the zones"
        )
        if spec.topology and command[0] in ("train", "embed", "sweep", "run"):
            say(f"compiles the config for {spec.topology}:")
            kept = _config_flags(command)
            argv = [sys.executable, "-m", "redundancy", "preflight", *kept, f"--topology={spec.topology}"]
            failed |= subprocess.run(argv, cwd=run_lib.HERE.parent, check=False).returncode != 0
    say("not ready" if failed else "ready")
    return int(failed)


def _config_flags(command: list[str]) -> list[str]:
    kept = []
    for index, part in enumerate(command):
        if re.match(r"--?config([.=]|$)", part):
            kept.append(part)
            if part.lstrip("-") == "config" and index + 1 < len(command):
                kept.append(command[index + 1])
    return kept


def _check_key(path: str) -> str:
    if not os.path.exists(path):
        return "none yet; gcloud makes one at the first ssh"
    done = subprocess.run(["ssh-keygen", "-y", "-P", "", "-f", path], capture_output=True, check=False)
    if done.returncode == 0:
        return path
    agent = subprocess.run(["ssh-add", "-l"], capture_output=True, check=False).stdout.decode()
    if "google_compute_engine" in agent:
        return f"{path}, held by an agent"
    raise UserError(f"{path} has a passphrase, which nobody is there to type")


# A run.


@contextlib.contextmanager
def _as_ctrl_c(*signals: signal.Signals) -> Iterator[None]:
    """Signals raise KeyboardInterrupt."""

    def interrupt(*_):
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(spec: Spec, command: list[str]) -> int:
    task = run_lib.Run(spec, command)
    say(f"run {spec.run}: {spec.slices} slice(s); its files are in {task.files.uri(spec.run)}")

    with _as_ctrl_c(signal.SIGTERM, signal.SIGHUP):
        try:
            task.open()
            return task.run()
        except KeyboardInterrupt:
            if _FLAGS.delete_on_exit and task.ledger.load():
                try:
                    task.down()
                    return 130
                except BaseException:
                    _tell_remaining(task, "The slices are not all deleted.")
                    raise
            _tell_remaining(task, "This launcher ends.")
            return 130
        except Exception:
            _tell_remaining(task, "This launcher ends.")
            raise


def _tell_remaining(task: run_lib.Run, what: str) -> None:
    left = task.remaining()
    if not task.is_open:
        return say(f"\n{what} It has changed nothing; see what exists: {_hint('list', task.spec)}")
    if not left:
        return say(f"\n{what} No slice is left.")
    spec = task.spec
    say(f"\n{what} What may still run, at {_cost(spec, spec.chips * len(left))} each hour:")
    for line in left:
        say(f"  {line}")
    say(f"The same command goes on. To end it: {_hint('down', spec)}")
    return None


def _hint(verb: str, spec: Spec) -> str:
    given = [arg for arg in sys.argv[1:] if arg not in (*VERBS, spec.run, "--delete_on_exit")]
    return shlex.join(["python", "-m", "launch", verb, *([] if verb == "list" else [spec.run]), *given])


def _opened(spec: Spec) -> run_lib.Run:
    """A run that exists."""
    task = run_lib.Run(spec, [])
    if not task.ledger.load():
        known = run_lib.run_names(task.files)
        raise UserError(
            f"there is no run {spec.run} in {task.files.root}.{nearest(spec.run, known)} Runs: {', '.join(known)}"
        )
    task.command = task.ledger.head["command"]
    return task


def status(spec: Spec) -> int:
    task = _opened(spec)
    head = task.ledger.head
    say(f"run {spec.run} since {_when(head['began'])}: redundancy {shlex.join(head['command'])}")
    budget = f" of {_cost(spec, spec.budget_chip_hours)}" if spec.budget_chip_hours else ""
    say(f"{task.used_s() * spec.chips / 3600:.1f} chip-hours used{budget}")
    for index, record in enumerate(task.ledger.records):
        last = record.last
        if last is None:
            say(f"{record.name}: not asked for yet")
            continue
        resource = task.slices.describe(record.name, last.zone)
        outcomes = [attempt.outcome for attempt in record.attempts if attempt.outcome]
        counts = ", ".join(f"{outcomes.count(kind)} {kind}" for kind in dict.fromkeys(outcomes))
        end = f"; ended with {record.end[0]}: {record.end[1]}" if record.end else ""
        say(
            f"{record.name} in {last.zone}: {_state(resource)}; attempt {last.number}{f' ({counts})' if counts else ''}{end}"
        )
        for each in task.statuses(index, last.number):
            code = f", code {each['code']}" if "code" in each else ""
            ago = max(0, time.time() - each["time"])
            say(f"  host {each['worker']} ({each['host']}): {each['state']}{code}, {ago:.0f} s ago: {each['line']}")
    return 0


def _state(resource: Resource) -> str:
    return f"{resource.state.value}{f' ({resource.message})' if resource.message else ''}"


def _when(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds).isoformat(" ", timespec="seconds")


def logs(spec: Spec) -> int:
    task = _opened(spec)
    shown: tuple[int, int] = (0, 0)
    while True:
        if _FLAGS.slice >= len(task.ledger.records):
            raise ConfigError(f"--slice={_FLAGS.slice}: the run has {len(task.ledger.records)} slice(s).")
        last = task.ledger.records[_FLAGS.slice].last
        number = last.number if last else 0
        path = f"{task.folder(_FLAGS.slice, number)}/host-{_FLAGS.host}.log"
        content = (task.files.read(path) or b"") if number else b""
        if shown[0] != number:
            shown = (number, 0)
            if _FLAGS.follow and number:
                say(f"---- attempt {number} ----")
        sys.stdout.write(content[shown[1] :].decode(errors="replace"))
        sys.stdout.flush()
        shown = (number, max(shown[1], len(content)))
        if not _FLAGS.follow:
            if not content:
                raise UserError(f"{task.files.uri(path)} is not there (yet).")
            return 0
        if task.ledger.records[_FLAGS.slice].end:
            return 0
        time.sleep(spec.mirror_s)
        task.ledger.load()


def stop(spec: Spec) -> int:
    _opened(spec).stop()
    say(f"The launcher that watches the run deletes its slices; where none does: {_hint('down', spec)}")
    return 0


def down(spec: Spec) -> int:
    _opened(spec).down()
    return 0


def list_(spec: Spec) -> int:
    slices, _ = run_lib.backend(spec)
    found = slices.existing()
    for resource in found:
        expires = resource.labels.get("expires", "")
        until = f", expires {_when(int(expires))}" if expires.isdecimal() else ""
        say(f"{resource.name} in {resource.zone}: {_state(resource)}, owner {resource.labels.get('owner')}{until}")
    if not found:
        say("nothing exists.")
    return 0


def _unended(files) -> list[controller.Record]:
    """Slices' records of all runs of the bucket that have not ended."""
    found = []
    for name in run_lib.run_names(files):
        ledger = run_lib.Ledger(files, name, time.sleep)
        found += [record for record in (ledger.records if ledger.load() else ()) if record.end is None]
    return found


def gc(spec: Spec) -> int:
    """Leftovers of this user: slices that were lost or are past their time; and requests that may still bring a slice."""
    slices, files = run_lib.backend(spec)
    found = failed = False
    for resource in slices.existing():
        expires = resource.labels.get("expires", "")
        expired = expires.isdecimal() and int(expires) < time.time()
        lost = resource.state is State.BROKEN
        if resource.labels.get("owner") != spec_lib.owner() or not (expired or lost):
            continue
        found = True
        say(f"{resource.name} in {resource.zone}: {'lost' if lost else 'past its time'} ({_state(resource)})")
        if _FLAGS.yes:
            try:
                slices.delete(resource.name, resource.zone)
                say("  deleted")
            except CloudError as error:
                failed = True
                say(f"  NOT deleted: {error}")
    waiting = [
        record.name for record in _unended(files) if controller.may_appear(record, time.time(), controller.policy(spec))
    ]
    for name in waiting:
        say(f"{name}: was asked for a moment ago and may still appear; look again in some minutes.")
    if not found:
        say("no leftovers." if not waiting else "no leftovers yet.")
    elif not _FLAGS.yes:
        say("Nothing was deleted; --yes deletes them.")
    return int(failed)


def _parse(argv: list[str]) -> tuple[list[str], object]:
    """What is left of the command line without its flags, and the config.

    Raises:
      ConfigError: a mistake in it, or in the config file.
    """
    fields = [field.name for field in dataclasses.fields(Spec)]
    for arg, following in zip(argv[1:], [*argv[2:], ""], strict=True):
        name, _, value = arg.lstrip("-").partition("=")
        field = name.removeprefix("config.")
        if field != name and field not in fields and field.removeprefix("no") not in fields:
            raise ConfigError(f"--{name}: there is no such field.{nearest(field, fields)} --help has all.")
        path = (value or following).partition(":")[0]
        if arg.startswith("-") and name == "config" and not os.path.isfile(path):
            raise ConfigError(f"--config: there is no file {path!r}; for example launch/configs/v5e_spot.py")
    try:
        return _FLAGS(argv)[1:], _FLAGS["config"].value
    except flags.Error as error:
        # Where the config file fails, a traceback comes between.
        lines = str(error).strip().splitlines()
        raise ConfigError(" ".join(dict.fromkeys((lines[0], lines[-1])))) from error
    except Exception as error:
        raise ConfigError(f"the launch config cannot be read: {type(error).__name__}: {error}") from error


def main(argv: list[str]) -> int:
    """Runs one command line and returns its exit code; flags and sys.argv are as before afterwards."""
    global _FLAGS
    before = sys.argv, _FLAGS
    try:
        _FLAGS = _defined()
        return _main(argv)
    finally:
        sys.argv, _FLAGS = before


def _main(argv: list[str]) -> int:
    cut = argv.index("--") if "--" in argv else len(argv)
    own, command = argv[:cut], argv[cut + 1 :]
    if len(own) < 2 or {"-h", "--help", "-help", "help"} & set(own[1:]):
        print(USAGE + "\nFields of a launch config:\n" + spec_lib.describe())
        return 0 if len(own) > 1 else 2
    own = ["--delete_on_exit" if arg == "--delete-on-exit" else arg for arg in own]
    sys.argv = own
    try:
        rest, config = _parse(own)
        verb = rest[0] if rest else ""
        if verb not in VERBS:
            raise ConfigError(f"{verb!r} is no command.{nearest(verb, VERBS)} Commands: {', '.join(VERBS)}.")
        if not config:
            raise ConfigError("--config is missing; for example --config launch/configs/v5e_spot.py")
        spec = spec_lib.resolve(config)
        names = rest[1:]
        if verb in _OF_A_RUN:
            if len(names) > 1 or not (names or spec.run):
                raise ConfigError(f"{verb} wants the name of one run, which run and list tell; found {names}.")
            spec = dataclasses.replace(spec, run=names[0]) if names else spec
            return {"status": status, "logs": logs, "stop": stop, "down": down}[verb](spec)
        if names:
            raise ConfigError(f"{verb} takes no {names[0]!r}; the redundancy command comes after --.")
        if verb in _OF_A_COMMAND:
            _check_command(command, spec)
            return {"plan": plan, "preflight": preflight, "run": run}[verb](_named(spec, command), command)
        return {"list": list_, "gc": gc}[verb](spec)
    except OSError as error:
        message, code = f"{error}", 1
    except KeyboardInterrupt:
        message, code = "interrupted", 130
    except UserError as error:
        message, code = str(error), 2 if isinstance(error, ConfigError) else 1
        if isinstance(error, CloudError):
            message = f"gcloud: {message}"
    print(f"launch: error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv))
