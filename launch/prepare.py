"""Before a run: checks its command, names it, shows what it would do (`plan`), and what is missing (`preflight`)."""

import dataclasses
import os
import re
import shlex
import subprocess
import sys

from launch import bundle as bundle_lib
from launch import start
from launch.backends import backend
from launch.records import Record
from launch.run import HERE, Run, fingerprint, first_line
from launch.spec import Spec
from redundancy.runtime.errors import ConfigError, UserError


def say(text: str) -> None:
    print(text, flush=True)


def named(spec: Spec, command: list[str]) -> Spec:
    """The spec with a name for the run, from its config's name and its fingerprint; raises ConfigError for a wrong command."""
    if not command:
        raise ConfigError("there is no command after --; for example: -- run --config digits --workdir DIR")
    if any(re.match(r"--?(coordinator|num[-_]processes|process[-_]id)\b", part) for part in command):
        raise ConfigError("--coordinator, --num-processes and --process-id are given by launch; leave them out.")
    if spec.slices > 1 and not any("{slice}" in part for part in command):
        what = (
            f"slices is {spec.slices}, but the command is the same on each of them. Put {{slice}} where they differ, "
        )
        raise ConfigError(what + "as in --part={slice}/{slices} of a sweep.")
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
    stem = os.path.basename((_value(command, "config") or command[0]).partition(":")[0]).removesuffix(".py").lower()
    stem = re.sub(r"[^a-z0-9]+", "-", stem).strip("-")[:24]
    return dataclasses.replace(spec, run=f"{stem if stem[:1].isalpha() else 'run'}-{fingerprint(spec, command)[:6]}")


def _value(command: list[str], flag: str) -> str | None:
    for part, following in zip(command, [*command[1:], None], strict=True):
        name, equals, value = part.partition("=")
        if name in (f"--{flag}", f"-{flag}"):
            return value if equals else following


def cost(spec: Spec, chip_hours: float) -> str:
    money = f", {spec.usd_per_chip_hour * chip_hours:,.0f} USD" if spec.usd_per_chip_hour else ""
    return f"{chip_hours:,.1f} chip-hours{money}"


def plan(spec: Spec, command: list[str]) -> int:
    run = Run(spec, command)
    slices, zone, bundle = run.slices, run.policy.zones[0], bundle_lib.make(HERE.parent)
    run.ledger.records = [Record(run.name(index)) for index in range(spec.slices)]
    say(f"run         {spec.run}")
    say(f"code        {len(bundle.files)} files, {len(bundle.data) / 2**20:.1f} MiB, {run.files.uri(bundle.name)}")
    say(f"slices      {spec.slices} × {slices.kind}, zones {', '.join(run.policy.zones)}")
    if spec.budget_chip_hours:
        each_hour = slices.chips * spec.slices
        hours = f"all slices at once for {spec.budget_chip_hours / each_hour:.1f} h; {cost(spec, each_hour)} each hour"
        say(f"at most     {cost(spec, spec.budget_chip_hours)}: {hours}")
    say(f"gives up    after {spec.max_failures} failures, {spec.max_preemptions} preemptions, {spec.give_up_hours:g} h")
    if warning := slices.warning():
        say(warning)
    for index in range(spec.slices):
        say(f"\n# slice {index}, on each host: {shlex.join(start.job(run, index, 1, zone)['argv'])}")
        argv = start.bootstrap(run, "start", index, 1, bundle.sha256)
        say("\n".join(slices.plan(run.name(index), zone, run.labels(index), run.left_s(), argv)))
    say("\nNothing was created.")
    return 0


def preflight(spec: Spec, command: list[str]) -> int:
    """Checks the requirements of a run; returns the exit code."""
    slices, failed = backend(spec), False
    code = ("code", lambda: f"{len(bundle_lib.make(HERE.parent).data) / 2**20:.1f} MiB", "a git checkout")
    for what, look, wanted in (code, *slices.checks()):
        try:
            found = look()
        except (UserError, ValueError) as error:
            failed, found = True, f"FAILED: {first_line(error)}. Wanted: {wanted}"
        say(f"{what:14} {found}")
    if slices.topology and command[0] in ("train", "embed", "sweep", "run"):
        say(f"compiles the config for {slices.topology}:")
        fields = [part for part in command if re.match(r"--?(no)?config\.", part)]
        argv = ["preflight", f"--config={_value(command, 'config')}", *fields, f"--topology={slices.topology}"]
        failed |= subprocess.run([sys.executable, "-m", "redundancy", *argv], cwd=HERE.parent).returncode != 0
    say("not ready" if failed else "ready")
    return int(failed)
