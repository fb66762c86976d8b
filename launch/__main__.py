"""The command line of the launcher."""

import argparse
import dataclasses
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from typing import NoReturn

from launch import bundle as bundle_lib
from launch import controller, records, start
from launch import spec as spec_lib
from launch.backends import CloudError, backend
from launch.ledger import Ledger
from launch.run import HERE, Run, fingerprint
from launch.spec import Spec
from redundancy.runtime.errors import ConfigError, UserError, nearest

USAGE = """\
launch: runs a redundancy command on Cloud TPU slices, and brings it back after every preemption.

  python -m launch run --config launch/configs/v5e_spot.py --config.bucket=gs://BUCKET --config.budget_chip_hours=200 \\
      -- run --config configs/imagenet.py --workdir gs://BUCKET/imagenet

  plan       prints what run would do: commands, chips, the most it can cost; creates nothing
  preflight  as plan, and compiles the config for the slice
  run        asks for the slices, starts the command on every host, watches, recovers, deletes; returns at the end
  status RUN   what exists and what each host does;  logs RUN [-f] [--host=N] [--slice=N]: a host's log, also afterwards
  stop RUN     the programs save and end, and run deletes the slices;  down RUN: deletes the slices now
  list       slices of this launcher, in all zones;  gc [--yes]: leftovers alone, and deletes them

Whatever comes after -- are the arguments of redundancy; {slice} and {slices} in them become the number of the slice and how
many there are (--part={slice}/{slices} shares a sweep). The same command is the same run: give it again after Ctrl-C,
a crash or on another machine, and it goes on. status, logs, stop and down want the same --config, and the name that run prints.

  --config             a Python file with get_config(); launch/configs/ has v4_spot, v5e_spot, v6e, local
  --config.FIELD=VALUE overrides a field; the fields are below

Exit codes: 0 done, 1 an error, 2 a wrong command, 75 stopped and saved, 130 Ctrl-C (what still runs is told).
"""
VERBS = ("plan", "preflight", "run", "status", "logs", "stop", "down", "list", "gc")


def say(text: str) -> None:
    print(text, flush=True)


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line of the launcher itself, as far as "--"."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("verb", nargs="?", default="")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--config")
    parser.add_argument("-f", "--follow", action="store_true")
    parser.add_argument("--host", type=int, default=0)
    parser.add_argument("--slice", type=int, default=0)
    parser.add_argument("--yes", action="store_true")
    fields, rest = {}, []
    for arg in argv:
        if found := re.fullmatch(r"--?config\.(\w[^=]*)(?:=(.*))?", arg, re.S):
            fields[found[1]] = "True" if found[2] is None else found[2]
        else:
            rest.append(arg)
    args = parser.parse_intermixed_args(rest)
    if args.verb not in VERBS:
        raise ConfigError(f"{args.verb!r} is no command.{nearest(args.verb, VERBS)} Commands: {', '.join(VERBS)}.")
    args.fields, args.given = fields, [arg for arg in argv if arg not in (*VERBS, *args.names)]
    return args


def named(spec: Spec, command: list[str]) -> Spec:
    """The spec with a name for the run: of the command's experiment, and of a hash of all that makes it this run."""
    if not command:
        raise ConfigError("there is no command after --; for example: -- run --config configs/digits.py --workdir DIR")
    if any(re.match(r"--?(coordinator|num[-_]processes|process[-_]id)\b", part) for part in command):
        raise ConfigError("--coordinator, --num-processes and --process-id are given by launch; leave them out.")
    if spec.slices > 1 and not any("{slice}" in part for part in command):
        told = (
            f"slices is {spec.slices}, but the command is the same on each of them. Put {{slice}} where they differ, "
        )
        raise ConfigError(told + "as in --part={slice}/{slices}")
    workdir = _value(command, "workdir")
    if workdir is None:
        raise ConfigError("the command has no --workdir; wanted one that outlives the slice.")
    backend(spec).check_workdir(workdir)
    code = "import sys; from redundancy.cli import main; sys.exit(main.check(['redundancy', *sys.argv[1:]]))"
    argv = [sys.executable, "-c", code, *start.substituted(command, spec, 0)]
    if subprocess.run(argv, env={**os.environ, "JAX_PLATFORMS": "cpu"}, cwd=HERE.parent, check=False).returncode:
        raise ConfigError("the command after -- is wrong, see above; nothing was created.")
    if spec.run:
        return spec
    stem = os.path.basename(_value(command, "config") or command[0]).split(".py")[0].lower()
    stem = re.sub(r"[^a-z0-9]+", "-", stem).strip("-")[:24]
    return dataclasses.replace(spec, run=f"{stem if stem[:1].isalpha() else 'run'}-{fingerprint(spec, command)[:6]}")


def _value(command: list[str], flag: str) -> str | None:
    for part, following in zip(command, [*command[1:], None], strict=True):
        name, equals, value = part.partition("=")
        if name in (f"--{flag}", f"-{flag}"):
            return value if equals else following
    return None


def cost(spec: Spec, chip_hours: float) -> str:
    money = f", {spec.usd_per_chip_hour * chip_hours:,.0f} USD" if spec.usd_per_chip_hour else ""
    return f"{chip_hours:,.1f} chip-hours{money}"


def plan(spec: Spec, command: list[str]) -> int:
    task = Run(spec, command)
    slices, zone, bundle = task.slices, task.policy.zones[0], bundle_lib.make(HERE.parent)
    task.ledger.records = [records.Record(task.name(index)) for index in range(spec.slices)]
    say(f"run         {spec.run}")
    say(f"code        {len(bundle.files)} files, {len(bundle.data) / 2**20:.1f} MiB, {task.files.uri(bundle.name)}")
    say(f"slices      {spec.slices} × {slices.kind}, zones {', '.join(task.policy.zones)}")
    if spec.budget_chip_hours:
        each_hour = slices.chips * spec.slices
        hours = f"all slices at once for {spec.budget_chip_hours / each_hour:.1f} h; {cost(spec, each_hour)} each hour"
        say(f"at most     {cost(spec, spec.budget_chip_hours)}: {hours}")
    say(f"gives up    after {spec.max_failures} failures, {spec.max_preemptions} preemptions, {spec.give_up_hours:g} h")
    if warning := slices.warning():
        say(warning)
    for index in range(spec.slices):
        say(f"\n# slice {index}, on each host: {shlex.join(start.job(task, index, 1, zone)['argv'])}")
        argv = start.bootstrap(task, "start", index, 1, bundle.sha256)
        for line in slices.plan(task.name(index), zone, task.labels(index), task.left_s(), argv):
            say(line)
    say("\nNothing was created.")
    return 0


def preflight(spec: Spec, command: list[str]) -> int:
    """A plan whose config is compiled for the slice, too."""
    plan(spec, command)
    topology = backend(spec).topology
    if topology is None or command[0] not in ("train", "embed", "sweep", "run"):
        return 0
    say(f"Compiles the config for {topology}:")
    fields = [part for part in command if re.match(r"--?(no)?config\.", part)]
    argv = ["preflight", f"--config={_value(command, 'config')}", *fields, f"--topology={topology}"]
    return subprocess.run([sys.executable, "-m", "redundancy", *argv], cwd=HERE.parent, check=False).returncode


def run(spec: Spec, command: list[str], args: argparse.Namespace) -> int:
    task = Run(spec, command)
    say(f"run {spec.run}: {spec.slices} slice(s); its files are in {task.files.uri(spec.run)}")
    try:
        task.open()
        return task.run()
    except BaseException:
        left = [record for record in task.records if record.last is not None and record.end is None]
        if not task.ledger.held:
            say(f"\nThis launcher ends, and has changed nothing. See what exists: {_hint('list', spec, args)}")
        elif not left:
            say("\nThis launcher ends. No slice is left.")
        else:
            money = cost(spec, task.slices.chips * len(left))
            say(f"\nThis launcher ends. What may still run, at {money} each hour:")
            say("\n".join(f"  {each.name} in {each.last.zone}, {task.slices.chips} chips" for each in left))
            say(f"The same command goes on. To end it: {_hint('down', spec, args)}")
        raise
    finally:
        task.ledger.release()


def _hint(verb: str, spec: Spec, args: argparse.Namespace) -> str:
    return shlex.join(["python", "-m", "launch", verb, *([] if verb == "list" else [spec.run]), *args.given])


def _names(files) -> list[str]:
    return [name for name in files.names("") if name not in ("bundles", "jax_cache", "slices")]


def _opened(spec: Spec) -> Run:
    """A run that exists."""
    task = Run(spec, [])
    if not task.ledger.load():
        known = ", ".join(_names(task.files))
        raise UserError(f"there is no run {spec.run} in {task.files.root}. Runs: {known}")
    task.command = task.ledger.head["command"]
    return task


def status(spec: Spec, args: argparse.Namespace) -> int:
    task = _opened(spec)
    head, chips = task.ledger.head, task.slices.chips
    say(f"run {spec.run} since {_when(head['began'])}: redundancy {shlex.join(head['command'])}")
    say(f"controller: {task.ledger.holder()}")
    budget = f" of {cost(spec, spec.budget_chip_hours)}" if spec.budget_chip_hours else ""
    say(f"{task.used_s() * chips / 3600:.1f} chip-hours used{budget}")
    for index, record in enumerate(task.records):
        last = record.last
        if last is None:
            say(f"{record.name}: not asked for yet")
            continue
        resource = task.slices.describe(record.name, last.zone)
        outcomes = [attempt.outcome for attempt in record.attempts if attempt.outcome]
        counts = ", ".join(f"{outcomes.count(kind)} {kind}" for kind in dict.fromkeys(outcomes))
        end = f"; ended with {record.end[0]}: {record.end[1]}" if record.end else ""
        say(f"{record.name} in {last.zone}: {resource}; attempt {last.number}{f' ({counts})' if counts else ''}{end}")
        for each in task.statuses(index, last.number):
            code = f", code {each['code']}" if "code" in each else ""
            ago = max(0, time.time() - each["time"])
            say(f"  host {each['worker']} ({each['host']}): {each['state']}{code}, {ago:.0f} s ago: {each['line']}")
    return 0


def logs(spec: Spec, args: argparse.Namespace) -> int:
    task = _opened(spec)
    number = size = 0  # of the attempt that is shown, and of what was shown
    if not 0 <= args.slice < len(task.records):
        raise ConfigError(f"--slice={args.slice}: the run has {len(task.records)} slice(s).")
    while True:
        record = task.records[args.slice]
        if record.last and record.last.number != number:
            number, size = record.last.number, 0
            if args.follow:
                say(f"---- attempt {number} ----")
        path = f"{task.folder(args.slice, number)}/host-{args.host}.log"
        content = task.files.read(path) or b""
        sys.stdout.write(content[size:].decode(errors="replace"))
        sys.stdout.flush()
        size = max(size, len(content))
        if not (content or args.follow):
            raise UserError(f"{task.files.uri(path)} is not there (yet).")
        if record.end or not args.follow:
            return 0
        time.sleep(spec.mirror_s)
        task.ledger.load()


def end(spec: Spec, args: argparse.Namespace) -> int:
    """`stop` and `down`."""
    if args.verb == "down":
        _opened(spec).down()
    else:
        _opened(spec).stop()
        say(f"The launcher that watches the run deletes its slices; where none does: {_hint('down', spec, args)}")
    return 0


def list_(spec: Spec, args: argparse.Namespace) -> int:
    """Every slice; for `gc` this user's that are lost or past their time, and requests that may still bring one."""
    slices, only = backend(spec), args.verb == "gc"
    found = failed = waiting = False
    for resource in slices.existing():
        owner, expires = resource.labels.get("owner"), resource.labels.get("expires", "")
        expired = expires.isdecimal() and int(expires) < time.time()
        lost = resource.state is records.State.BROKEN
        if only and (owner != spec_lib.owner() or not (expired or lost)):
            continue
        found = True
        until = f", expires {_when(int(expires))}" if expires.isdecimal() else ""
        say(f"{resource.name} in {resource.zone}: {resource}, owner {owner}{until}")
        if only and args.yes:
            try:
                slices.delete(resource.name, resource.zone)
                say("  deleted")
            except CloudError as error:
                failed = True
                say(f"  NOT deleted: {error}")
    policy = records.policy(spec, slices.zones, slices.chips)
    for name in _names(slices.files) if only else ():
        ledger = Ledger(slices.files, name)
        for record in ledger.records if ledger.load() else ():
            if record.end is None and controller.may_appear(record, time.time(), policy):
                waiting = True
                say(f"{record.name}: was asked for a moment ago and may still appear; look again in some minutes.")
    if not found:
        say(f"no leftovers{' yet' if waiting else ''}." if only else "nothing exists.")
    elif only and not args.yes:
        say("Nothing was deleted; --yes deletes them.")
    return int(failed)


def main(argv: list[str]) -> int:
    """Runs one command line and returns its exit code."""
    cut = argv.index("--") if "--" in argv else len(argv)
    own, command = argv[1:cut], argv[cut + 1 :]
    if not own or {"-h", "--help", "-help", "help"} & set(own):
        print(USAGE + "\nFields of a launch config:\n" + spec_lib.describe())
        return 0 if own else 2
    try:
        return _dispatch(parse(own), command)
    except (OSError, UserError) as error:
        of_gcloud = "gcloud: " if isinstance(error, CloudError) else ""
        print(f"launch: error: {of_gcloud}{error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        return 130


def _dispatch(args: argparse.Namespace, command: list[str]) -> int:
    if not args.config:
        raise ConfigError("--config is missing; for example --config launch/configs/v5e_spot.py")
    spec, verb, names = spec_lib.load(args.config, args.fields), args.verb, args.names
    if verb in ("status", "logs", "stop", "down"):
        if len(names) > 1 or not (names or spec.run):
            raise ConfigError(f"{verb} wants the name of one run, which run and list tell; found {names}.")
        spec = dataclasses.replace(spec, run=names[0]) if names else spec
        return {"status": status, "logs": logs, "stop": end, "down": end}[verb](spec, args)
    if names:
        raise ConfigError(f"{verb} takes no {names[0]!r}; the redundancy command comes after --.")
    if verb in ("list", "gc"):
        return list_(spec, args)
    spec = named(spec, command)
    return run(spec, command, args) if verb == "run" else {"plan": plan, "preflight": preflight}[verb](spec, command)


if __name__ == "__main__":
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.default_int_handler)
    sys.exit(main(sys.argv))
