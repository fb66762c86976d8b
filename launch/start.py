"""Starts and stops the program of an attempt on the hosts of a slice, for `run.Run`."""

import contextlib
import json
import pathlib
import re
from collections.abc import Sequence

from launch.records import Resource
from launch.spec import Spec

_ACK = re.compile(r"LAUNCH-ACK (\{.*\})")
_HERE = "LAUNCH-HERE"  # the first line that bootstrap.sh prints on a host
_START_S, _TRIES = 300.0, 3
_FOREVER = 1e12


def substituted(command: Sequence[str], spec: Spec, index: int) -> list[str]:
    """The command of one slice, with {slice} and {slices} replaced."""
    return [part.replace("{slice}", str(index)).replace("{slices}", str(spec.slices)) for part in command]


def job(run, index: int, attempt: int, zone: str) -> dict:
    """The contents of job.json, for the workers of an attempt."""
    spec, slices, left = run.spec, run.slices, run.left_s()
    command = substituted(run.command, spec, index)
    setup = ["bash", "launch/setup_worker.sh", spec.python, ",".join(spec.extras)]
    debug = [] if "--debug" in command else ["--debug"]
    return {
        "mark": spec.mark(run.name(index)),
        "argv": [slices.python or ".launch-venv/bin/python", "-m", "redundancy", *command, *debug],
        "env": {**slices.env, **dict(spec.env)},
        "mirror": run.files.uri(run.folder(index, attempt)),
        "mirror_s": spec.mirror_s,
        "setup": None if slices.python else setup,
        "expires": run.clock.time() + min(_FOREVER, max(run.policy.least_s, left - run.policy.last_s)),
        "idle_s": spec.idle_minutes * 60,
        "delete": slices.delete_argv(run.name(index), zone) if spec.self_delete else None,
        "devices": list(slices.devices),
    }


def bootstrap(run, verb: str, index: int, attempt: int, sha256: str) -> list[str]:
    """The command that hosts run."""
    script = pathlib.Path(__file__).with_name("bootstrap.sh").read_text()
    there = run.files.uri(f"{run.folder(index, attempt)}/job.json")
    return ["sh", "-c", script, "launch", run.files.uri(f"bundles/{sha256}.tar.gz"), sha256, verb, there, str(attempt)]


def start(run, index: int, attempt: int, resource: Resource) -> None:
    """Starts the program, and saves that all hosts have acknowledged it; otherwise closes the attempt."""
    bundle = run.bundle
    if not run.files.generation(bundle.name):
        run.files.write(bundle.name, bundle.data)
    content = json.dumps(job(run, index, attempt, resource.zone)).encode()
    run.files.write(f"{run.folder(index, attempt)}/job.json", content)
    acks, said = ask(run, index, "start", attempt, bundle.sha256, resource)
    if not acks and _HERE not in said and run.slices.denied(said):
        return run.close(index, "refused", f"ssh: {said.strip()[-500:]}")
    if busy := [ack for ack in acks.values() if ack["state"] == "busy"]:
        held = "; ".join(f"host {ack['worker']}: {holder}" for ack in busy for holder in ack["holders"])
        return run.close(index, "refused", f"the chips are in use by processes that are not of this run ({held})")
    if wrong := [ack for ack in acks.values() if ack["state"] == "error"]:
        return run.close(index, "failed", f"host {wrong[0]['worker']}: {wrong[0]['message']}")
    missing = sorted(set(range(resource.hosts)) - acks.keys())
    if missing or not resource.hosts:
        last = "\n".join(said.replace(_HERE, "").strip().splitlines()[-5:])
        # If the start script ran and failed, it would probably fail on another slice, too.
        outcome = "failed" if _HERE in said else "unfit"
        return run.close(index, outcome, f"hosts {missing} did not start the program: {last}")
    values = dict(started=run.clock.time(), bundle=bundle.sha256, hosts=resource.hosts)
    return run.update(index, run.records[index].with_last(**values))


def ask(run, index: int, verb: str, attempt: int, sha256: str, resource: Resource) -> tuple[dict[int, dict], str]:
    """Sends a command to all hosts; returns acknowledgements by worker, and other output of the last time.

    The command is sent again to hosts that have not acknowledged it. The exit code of ssh to several hosts is not used, since
    gcloud returns 0 even if it reached none.
    """
    acks: dict[int, dict] = {}
    said, all_hosts = "", set(range(resource.hosts))
    argv = bootstrap(run, verb, index, attempt, sha256)
    for _ in range(_TRIES):
        missing = sorted(all_hosts - acks.keys()) if acks else ()
        said = run.slices.execute(run.name(index), resource.zone, argv, missing, _START_S)
        for text in _ACK.findall(said):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                ack = json.loads(text)
                acks[int(ack["worker"])] = ack
        if all_hosts <= acks.keys():
            break
        run.sleep()
    return acks, _ACK.sub("", said)
