"""The command line of the launcher."""

import argparse
import contextlib
import dataclasses
import re
import shlex
import signal
import sys
import time
from typing import NoReturn

from launch import controller
from launch import spec as spec_lib
from launch.backends import CloudError, backend
from launch.ledger import Ledger
from launch.prepare import cost, named, plan, preflight, say
from launch.records import Policy, State
from launch.run import Run
from launch.spec import Spec
from redundancy.runtime.errors import ConfigError, UserError, nearest

USAGE = """\
launch: runs a redundancy command on Cloud TPU slices, and restarts it after every preemption.

  python -m launch run --config launch/configs/v5e_spot.py --config.bucket=gs://BUCKET --config.budget_chip_hours=200 \\
      -- run --config imagenet --workdir gs://BUCKET/imagenet

  plan       prints what run would do: commands, chips, and the largest possible cost; creates nothing
  preflight  checks gcloud, project, zones, bucket and keys, and compiles the config for the slice
  run        requests the slices, starts the command on every host, watches, recovers, deletes; returns at the end
  status RUN   shows the slices and the state of each host;  logs RUN [-f] [--host=N] [--slice=N]: a host's log, also afterwards
  stop RUN     the programs save and end, and run deletes the slices;  down RUN: deletes the slices now
  list       lists the slices of this launcher, in all zones;  gc [--yes]: lists leftovers, and with --yes deletes them

The arguments after -- are those of redundancy. In them, {slice} and {slices} are replaced by the number of the slice and the
number of slices (--part={slice}/{slices} shares a sweep). The same command continues the same run, after Ctrl-C, a crash or
on another machine. status, logs, stop and down need the same --config, and the name that run prints.

  --config             a Python file with get_config(); launch/configs/ has v4_spot, v5e_spot, v6e, local
  --config.FIELD=VALUE overrides a field; the fields are below
  --delete-on-exit     Ctrl-C also deletes the slices

Exit codes: 0 done, 1 an error, 2 a wrong command, 75 stopped and saved, 130 Ctrl-C (prints what still runs).
"""
VERBS = ("plan", "preflight", "run", "status", "logs", "stop", "down", "list", "gc")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of a host or slice")
    return int(text)


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses the launcher's own arguments, up to "--"; raises ConfigError if they are wrong."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("verb", nargs="?", default="")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--config")
    parser.add_argument("-f", "--follow", action="store_true")
    parser.add_argument("--host", type=_number, default=0)
    parser.add_argument("--slice", type=_number, default=0)
    parser.add_argument("--yes", action="store_true")
    parser.add_argument("--delete-on-exit", "--delete_on_exit", action="store_true")
    fields, rest = {}, []
    for arg in argv:
        if found := re.fullmatch(r"--?config\.(\w[^=]*)(?:=(.*))?", arg, re.S):
            fields[found[1]] = "True" if found[2] is None else found[2]
        else:
            rest.append(arg)
    args = parser.parse_intermixed_args(rest)
    if args.verb not in VERBS:
        raise ConfigError(f"{args.verb!r} is no command.{nearest(args.verb, VERBS)} Commands: {', '.join(VERBS)}.")
    args.fields, args.given = fields, [arg for arg in argv if arg not in (*VERBS, *args.names, "--delete-on-exit")]
    return args


def run(spec: Spec, command: list[str], args: argparse.Namespace) -> int:
    task = Run(spec, command)
    say(f"run {spec.run}: {spec.slices} slice(s); its files are in {task.files.uri(spec.run)}")
    what = "This launcher ends."
    with contextlib.ExitStack() as stack:
        for number in (signal.SIGTERM, signal.SIGHUP):
            stack.callback(signal.signal, number, signal.signal(number, signal.default_int_handler))
        stack.callback(task.ledger.release)
        try:
            try:
                task.open()
                return task.run()
            except KeyboardInterrupt:
                if args.delete_on_exit and task.ledger.load():
                    what = "The slices are not all deleted."
                    task.down()
                    return 130
                raise
        except BaseException:
            _tell_remaining(task, args, what)
            raise


def _tell_remaining(task: Run, args: argparse.Namespace, what: str) -> None:
    left = [record for record in task.records if record.last is not None and record.end is None]
    if not task.ledger.held:
        say(f"\n{what} It has changed nothing; see what exists: {_hint('list', task.spec, args)}")
    elif not left:
        say(f"\n{what} No slice is left.")
    else:
        say(f"\n{what} What may still run, at {cost(task.spec, task.slices.chips * len(left))} each hour:")
        say("\n".join(f"  {each.name} in {each.last.zone}, {task.slices.chips} chips" for each in left))
        say(f"The same command goes on. To end it: {_hint('down', task.spec, args)}")


def _hint(verb: str, spec: Spec, args: argparse.Namespace) -> str:
    return shlex.join(["python", "-m", "launch", verb, *([] if verb == "list" else [spec.run]), *args.given])


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _names(files) -> list[str]:
    return [name for name in files.names("") if name not in ("bundles", "jax_cache", "slices")]


def _opened(spec: Spec) -> Run:
    """Loads an existing run."""
    task = Run(spec, [])
    if not task.ledger.load():
        known, where = _names(task.files), task.files.root
        raise UserError(f"there is no run {spec.run} in {where}.{nearest(spec.run, known)} Runs: {', '.join(known)}")
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
    number = size = 0  # the attempt that is shown, and the bytes of its log shown so far
    if args.slice >= len(task.records):
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
    """Runs the commands `stop` and `down`."""
    if args.verb == "down":
        _opened(spec).down()
    else:
        _opened(spec).stop()
        say(f"The launcher that watches the run deletes its slices; if there is none: {_hint('down', spec, args)}")
    return 0


def list_(spec: Spec, args: argparse.Namespace) -> int:
    """Lists all slices; for `gc`, only this user's lost or expired ones, and requests that may still create a slice."""
    slices, only = backend(spec), args.verb == "gc"
    found = failed = waiting = False
    for resource in slices.existing():
        owner, expires = resource.labels.get("owner"), resource.labels.get("expires", "")
        expired = expires.isdecimal() and int(expires) < time.time()
        lost = resource.state is State.BROKEN
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
    policy = Policy.of(spec, slices.zones, slices.chips)
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
            raise ConfigError(f"{verb} wants the name of one run, which run and list print; found {names}.")
        spec = dataclasses.replace(spec, run=names[0]) if names else spec
        return {"status": status, "logs": logs, "stop": end, "down": end}[verb](spec, args)
    if names:
        raise ConfigError(f"{verb} takes no {names[0]!r}; the redundancy command comes after --.")
    if verb in ("list", "gc"):
        return list_(spec, args)
    spec = named(spec, command)
    return run(spec, command, args) if verb == "run" else {"plan": plan, "preflight": preflight}[verb](spec, command)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
