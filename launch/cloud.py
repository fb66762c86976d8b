"""Google Cloud through the gcloud binary: command lines, what their errors mean, objects in a bucket, queued resources."""

import json
import pathlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Protocol

from absl import logging

from launch.controller import CAPACITY, Resource, State
from launch.spec import Spec
from redundancy.runtime.cache_folder import cache_folder
from redundancy.runtime.errors import UserError

# An ssh connection to a slice that was taken back would otherwise hang.
_SSH = ("-oServerAliveInterval=15", "-oServerAliveCountMax=4", "-oConnectTimeout=20")
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_TPUS = ("compute", "tpus")
# gcloud ends with 1 whatever went wrong, and tells it in words; the first that fits counts.
_KINDS = (
    ("changed", r"conditionNotMet|pre-?conditions? .*(did not hold|failed)|HTTPError 412"),
    ("exists", r"ALREADY_EXISTS|already exists"),
    (
        "account",
        r"UNAUTHENTICATED|[Rr]eauthentication|do not currently have an active account|invalid_grant",
    ),
    ("permission", r"PERMISSION_DENIED|does not have (permission|\S+ access)|HTTPError 403"),
    ("capacity", CAPACITY.pattern),
    (
        "unavailable",
        r"UNAVAILABLE|INTERNAL|DEADLINE_EXCEEDED|ABORTED|FAILED_PRECONDITION|HTTPError 5\d\d|'status': 5\d\d|"
        r"HttpError accessing|[Cc]onnecti(on|vity)|timed? ?out",
    ),
    ("missing", r"NOT_FOUND|not found: 404|matched no objects|HTTPError 404"),
    ("invalid", r"INVALID_ARGUMENT|Invalid choice|unrecognized arguments|argument -|Invalid value"),
)
PERMANENT = ("account", "permission", "invalid", "missing")


class CloudError(UserError):
    """gcloud did not do what was asked. `kind`: one of those above, or "other"."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


def classify(stderr: str) -> CloudError:
    """The error that gcloud's words tell of."""
    errors = [line for line in stderr.splitlines() if line.startswith("ERROR:")] or stderr.strip().splitlines()[-3:]
    text = stderr[stderr.find(errors[0]) :].strip() if errors else "gcloud ended with an error and said nothing"
    kind = next(
        (kind for kind, words in _KINDS if re.search(words, text, re.IGNORECASE if kind == "capacity" else 0)), "other"
    )
    return CloudError(kind, text)


class Gcloud:
    """Runs gcloud, with arguments as a list: no shell of this machine reads them.

    Args:
      project: of every command that has one; gcloud's own where empty.
    """

    def __init__(self, project: str = ""):
        self._project = project

    def argv(self, *args: str, zone: str | None = None) -> list[str]:
        where = [f"--project={self._project}"] if self._project and args[0] == "compute" else []
        return ["gcloud", *args, *where, *([f"--zone={zone}"] if zone else [])]

    def run(self, argv: Sequence[str], stdin: bytes | None = None, timeout: float = 120) -> bytes:
        """What the command prints.

        Raises:
          CloudError: it ended with an error, or did not end in `timeout` seconds.
          UserError: there is no gcloud.
        """
        code, stdout, stderr = self.attempt(argv, stdin, timeout)
        if code != 0:
            raise classify(stderr)
        return stdout

    def attempt(self, argv: Sequence[str], stdin: bytes | None = None, timeout: float = 120) -> tuple[int, bytes, str]:
        """Exit code, output and errors of a command; code 124 where it took too long."""
        logging.debug("+ %s", shlex.join(argv))
        if shutil.which("gcloud") is None:
            raise UserError("there is no gcloud on the PATH: install the Google Cloud CLI, and run gcloud init.")
        source = dict(stdin=subprocess.DEVNULL) if stdin is None else dict(input=stdin)
        try:
            done = subprocess.run(argv, **source, capture_output=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired as expired:
            return 124, expired.stdout or b"", f"{shlex.join(argv[:5])} timed out after {timeout:.0f} s"
        return done.returncode, done.stdout, done.stderr.decode(errors="replace")


class Slices(Protocol):
    """Slices of accelerators, by name: what a backend has to offer. A zone holds one slice of a name at most."""

    def create(self, name: str, zone: str, labels: Mapping[str, str], left_s: float) -> None:
        """Asks for a slice that may last `left_s` seconds; returns before it is there. Nothing where it was asked for already."""

    def describe(self, name: str, zone: str) -> Resource:
        """What there is; raises only where asking again would not help."""

    def delete(self, name: str, zone: str) -> None:
        """Asks for the end of a slice, in whatever state it is; nothing where there is none."""

    def existing(self) -> list[Resource]:
        """Every slice that this launcher has made, in all zones."""

    def execute(self, name: str, zone: str, argv: Sequence[str], workers: Sequence[int], timeout: float) -> str:
        """Runs a command on hosts of a slice, on all where `workers` is empty; what it printed there, and what went wrong.

        It may have run on fewer hosts, and more than once: the output has to tell.
        """

    def plan(self, name: str, zone: str, labels: Mapping[str, str], left_s: float, argv: Sequence[str]) -> list[str]:
        """The commands that a run would give, to be read by people."""


_STATES = {
    **dict.fromkeys(("CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING"), State.WAITING),
    **dict.fromkeys(("SUSPENDING", "SUSPENDED", "FAILED"), State.BROKEN),
    "ACTIVE": State.ACTIVE,
    "DELETING": State.DELETING,
}


class QueuedResources:
    """Slices of the Cloud TPU API, each a queued resource with one node of its name."""

    def __init__(self, spec: Spec, gcloud: Gcloud):
        self._spec, self._gcloud = spec, gcloud

    def _startup(self, name: str) -> pathlib.Path:
        """Where the script lies that a slice's VMs run when they start."""
        return pathlib.Path(cache_folder() or ".launch") / "startup" / f"{name}.sh"

    def _write_startup(self, name: str, zone: str, left_s: float) -> None:
        idle_s = round(self._spec.idle_minutes * 60)
        delete = shlex.join(delete_argv(self._gcloud, name, zone))
        path = self._startup(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f"#!/bin/sh\nidle_s={idle_s}\nleft_s={max(idle_s, round(left_s))}\ndelete() {{ {delete}; }}\n"
            + pathlib.Path(__file__).with_name("startup.sh").read_text()
        )

    def _create(self, name: str, zone: str, labels: Mapping[str, str]) -> list[str]:
        spec = self._spec
        optional = {
            "--service-account": spec.service_account,
            "--network": spec.network,
            "--subnetwork": spec.subnetwork,
        }
        return [
            *self._gcloud.argv(*_TPUS, "queued-resources", "create", name, zone=zone),
            f"--accelerator-type={spec.accelerator_type}",
            f"--runtime-version={spec.runtime}",
            f"--node-id={name}",
            *(["--spot"] if spec.spot else ["--reserved"] if spec.reserved else []),
            f"--valid-until-duration={round(spec.wait_hours * 3600)}s",
            "--labels=" + ",".join(f"{key}={value}" for key, value in labels.items()),
            f"--scopes={_SCOPE}",
            *(f"{flag}={value}" for flag, value in optional.items() if value),
            *(["--internal-ips"] if spec.internal_ips else []),
            *([f"--metadata-from-file=startup-script={self._startup(name)}"] if spec.self_delete else []),
            "--async",
            "--quiet",
        ]

    def _ssh(self, name: str, zone: str, argv: Sequence[str], workers: Sequence[int]) -> list[str]:
        return [
            *self._gcloud.argv(*_TPUS, "queued-resources", "ssh", name, zone=zone),
            "--node=all",
            "--worker=" + (",".join(map(str, workers)) or "all"),
            "--batch-size=all",
            "--quiet",
            *(["--tunnel-through-iap"] if self._spec.internal_ips else []),
            *(f"--ssh-flag={flag}" for flag in _SSH),
            # gcloud splits this at blanks and ssh joins it again: what the host's shell reads is this text.
            f"--command={shlex.join(argv)}",
        ]

    def create(self, name: str, zone: str, labels: Mapping[str, str], left_s: float) -> None:
        self._write_startup(name, zone, left_s)
        try:
            self._gcloud.run(self._create(name, zone, labels))
        except CloudError as error:
            if error.kind != "exists":
                raise

    def describe(self, name: str, zone: str) -> Resource:
        try:
            found = self._describe("queued-resources", name, zone)
            if found is None:
                return Resource(name, zone, State.ABSENT)
            resource = _resource(found, zone)
            if resource.state is not State.ACTIVE:
                return resource
            node = self._describe("tpu-vm", name, zone) or {}
        except CloudError as error:
            if error.kind in ("account", "permission", "invalid"):
                raise
            return Resource(name, zone, State.UNKNOWN, message=str(error).splitlines()[0])
        state, health, hosts = (
            node.get("state", "MISSING"),
            node.get("health", "HEALTHY"),
            node.get("networkEndpoints", []),
        )
        ready = state == "READY" and health in ("HEALTHY", "HEALTH_UNSPECIFIED") and bool(hosts)
        message = "" if ready else f"node {state}, {health}, {len(hosts)} hosts"
        return Resource(name, zone, State.ACTIVE, ready, len(hosts), message, resource.labels)

    def _describe(self, kind: str, name: str, zone: str) -> dict | None:
        argv = [*self._gcloud.argv(*_TPUS, kind, "describe", name, zone=zone), "--format=json"]
        try:
            return json.loads(self._gcloud.run(argv))
        except CloudError as error:
            if error.kind == "missing":
                return None
            raise
        except ValueError as error:
            raise CloudError("unavailable", "gcloud printed no JSON") from error

    def delete(self, name: str, zone: str) -> None:
        try:
            self._gcloud.run(delete_argv(self._gcloud, name, zone))
        except CloudError as error:
            if error.kind != "missing":
                raise

    def existing(self) -> list[Resource]:
        argv = [*self._gcloud.argv(*_TPUS, "queued-resources", "list", zone="-"), "--format=json"]
        found = [_resource(each) for each in json.loads(self._gcloud.run(argv))]
        return [each for each in found if each.labels.get("app") == "redundancy"]

    def execute(self, name: str, zone: str, argv: Sequence[str], workers: Sequence[int], timeout: float) -> str:
        _, stdout, stderr = self._gcloud.attempt(self._ssh(name, zone, argv, workers), timeout=timeout)
        return f"{stdout.decode(errors='replace')}\n{stderr}"

    def plan(self, name: str, zone: str, labels: Mapping[str, str], left_s: float, argv: Sequence[str]) -> list[str]:
        return [
            shlex.join(each)
            for each in (
                self._create(name, zone, labels),
                self._ssh(name, zone, argv, ()),
                delete_argv(self._gcloud, name, zone),
            )
        ]


def delete_argv(gcloud: Gcloud, name: str, zone: str) -> list[str]:
    return [*gcloud.argv(*_TPUS, "queued-resources", "delete", name, zone=zone), "--force", "--async", "--quiet"]


# Of google.rpc, where the words alone may not tell.
_CODES = {3: "INVALID_ARGUMENT: ", 7: "PERMISSION_DENIED: ", 8: "RESOURCE_EXHAUSTED: "}


def _resource(found: dict, zone: str = "") -> Resource:
    """A queued resource as gcloud's JSON tells it."""
    path = found.get("name", "").split("/")
    name, zone = path[-1], zone or (path[3] if len(path) > 3 else "")
    told = found.get("state", {})
    state = _STATES.get(told.get("state"), State.UNKNOWN)
    error = told.get("failedData", {}).get("error", {})
    failed = _CODES.get(error.get("code"), "") + error.get("message", "")
    message = failed or (told.get("state", "no state") if state in (State.BROKEN, State.UNKNOWN) else "")
    nodes = found.get("tpu", {}).get("nodeSpec", [{}])
    return Resource(name, zone, state, message=message, labels=nodes[0].get("node", {}).get("labels", {}))


class GcsFiles:
    """Small files in a bucket. `generation`: of Cloud Storage; 0 where there is no file."""

    def __init__(self, root: str, gcloud: Gcloud):
        self.root, self._gcloud = root, gcloud

    def uri(self, path: str) -> str:
        return f"{self.root}/{path}"

    def read(self, path: str) -> bytes | None:
        try:
            return self._gcloud.run(["gcloud", "storage", "cat", self.uri(path)])
        except CloudError as error:
            if error.kind == "missing":
                return None
            raise

    def generation(self, path: str) -> int:
        argv = ["gcloud", "storage", "objects", "describe", self.uri(path), "--format=value(generation)"]
        try:
            return int(self._gcloud.run(argv))
        except CloudError as error:
            if error.kind == "missing":
                return 0
            raise

    def write(self, path: str, data: bytes, generation: int | None = None) -> None:
        """Raises CloudError of kind "changed" where the file there is not that of `generation`."""
        condition = [] if generation is None else [f"--if-generation-match={generation}"]
        self._gcloud.run(["gcloud", "storage", "cp", *condition, "-", self.uri(path)], stdin=data, timeout=600)

    def lines(self, pattern: str) -> list[bytes]:
        """Lines of all files that fit the pattern."""
        try:
            return self._gcloud.run(["gcloud", "storage", "cat", self.uri(pattern)]).splitlines()
        except CloudError as error:
            if error.kind == "missing":
                return []
            raise

    def names(self, path: str) -> list[str]:
        """Names in a folder."""
        try:
            found = self._gcloud.run(["gcloud", "storage", "ls", self.uri(path).rstrip("/") + "/"]).decode()
        except CloudError as error:
            if error.kind == "missing":
                return []
            raise
        return sorted(line.rstrip("/").rsplit("/", 1)[-1] for line in found.split())
