"""Cloud TPU slices through the gcloud binary: each is a queued resource with one node of the same name."""

import functools
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence

from absl import logging

from launch.backends import CloudError, Slices
from launch.controller import CAPACITY
from launch.records import Resource, State
from launch.spec import Spec
from redundancy.runtime.errors import ConfigError, UserError
from redundancy.storage.cache_folder import cache_folder

# Accelerator types: the units of their number per chip, the TPU VM's software (Google's page on runtimes, 2026), and the names
# of their topologies for the compiler.
_PLANE = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_CUBE = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8"}
TYPES = {
    "v4": (2, "tpu-ubuntu2204-base", "v4", _CUBE),
    "v5litepod": (1, "v2-alpha-tpuv5-lite", "v5e", _PLANE),
    "v5p": (2, "v2-alpha-tpuv5", "v5p", _CUBE),
    "v6e": (1, "v2-alpha-tpuv6e", "v6e", _PLANE),
}
# Without these options an ssh connection to a preempted slice would hang.
_SSH = ("-oServerAliveInterval=15", "-oServerAliveCountMax=4", "-oConnectTimeout=20")
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_QUEUED = "queued-resources"
_STATES = {
    **dict.fromkeys(("CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING"), State.WAITING),
    **dict.fromkeys(("SUSPENDING", "SUSPENDED", "FAILED"), State.BROKEN),
    "ACTIVE": State.ACTIVE,
    "DELETING": State.DELETING,
}
# gcloud returns exit code 1 for all errors, so errors are classified by their text; the first match counts.
_KINDS = (
    ("changed", r"conditionNotMet|pre-?conditions? .*(did not hold|failed)|HTTPError 412"),
    ("exists", r"ALREADY_EXISTS|already exists"),
    ("account", r"UNAUTHENTICATED|[Rr]eauthentication|do not currently have an active account|invalid_grant"),
    ("permission", r"PERMISSION_DENIED|does not have (permission|\S+ access)|HTTPError 403"),
    ("capacity", f"(?i:{CAPACITY.pattern})"),
    ("unavailable", r"UNAVAILABLE|INTERNAL|DEADLINE_EXCEEDED|ABORTED|FAILED_PRECONDITION|HTTPError 5\d\d"),
    ("unavailable", r"HttpError accessing|'status': 5\d\d|[Cc]onnecti(on|vity)|timed? ?out"),
    ("missing", r"NOT_FOUND|not found: 404|matched no objects|HTTPError 404"),
    ("invalid", r"INVALID_ARGUMENT|Invalid choice|unrecognized arguments|argument -|Invalid value"),
)
_CODES = {3: "INVALID_ARGUMENT: ", 7: "PERMISSION_DENIED: ", 8: "RESOURCE_EXHAUSTED: "}  # of google.rpc
_DENIED = re.compile(r"Permission denied \(publickey|Host key verification failed")


def classify(stderr: str) -> CloudError:
    """Classifies the error that gcloud's text describes."""
    errors = [line for line in stderr.splitlines() if line.startswith("ERROR:")] or stderr.strip().splitlines()[-3:]
    text = stderr[stderr.find(errors[0]) :].strip() if errors else "gcloud ended with an error and said nothing"
    return CloudError(next((kind for kind, words in _KINDS if re.search(words, text)), "other"), text)


class Gcloud:
    """Runs gcloud, in a project if one is given, without a shell on this machine."""

    def __init__(self, project: str = ""):
        self._project = project

    def argv(self, *args: str, zone: str) -> list[str]:
        """A command on TPUs."""
        where = [f"--project={self._project}"] if self._project else []
        return ["gcloud", "compute", "tpus", *args, *where, f"--zone={zone}"]

    def run(self, argv: Sequence[str], stdin: bytes | None = None, timeout: float = 120) -> bytes:
        """Runs a command and returns its output; raises CloudError if it fails or takes longer than `timeout` seconds."""
        code, stdout, stderr = self.attempt(argv, stdin, timeout)
        if code != 0:
            raise classify(stderr)
        return stdout

    def found(self, argv: Sequence[str]) -> bytes | None:
        """As `run`, but returns None if the resource of the command does not exist."""
        try:
            return self.run(argv)
        except CloudError as error:
            if error.kind != "missing":
                raise

    def attempt(self, argv: Sequence[str], stdin: bytes | None = None, timeout: float = 120) -> tuple[int, bytes, str]:
        """Exit code, output and errors of a command; code 124 if it took too long."""
        logging.debug("+ %s", shlex.join(argv))
        if shutil.which("gcloud") is None:
            raise UserError("there is no gcloud on the PATH: install the Google Cloud CLI, and run gcloud init.")
        source = dict(stdin=subprocess.DEVNULL) if stdin is None else dict(input=stdin)
        try:
            done = subprocess.run(argv, **source, capture_output=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired as expired:
            return 124, expired.stdout or b"", f"{shlex.join(argv[:5])} timed out after {timeout:.0f} s"
        return done.returncode, done.stdout, done.stderr.decode(errors="replace")


class Backend(Slices):
    def __init__(self, spec: Spec):
        kind, number = _check(spec)
        per_chip, runtime, generation, shapes = TYPES[kind]
        self._gcloud, chips = Gcloud(spec.project), number // per_chip
        how = f"{spec.accelerator_type} ({chips} chips), {_billing(spec) or 'on demand'}"
        super().__init__(spec, spec.zones, chips, how, GcsFiles(spec.root, self._gcloud))
        self.runtime, self.devices = spec.runtime_version or runtime, spec.devices
        self.topology = f"{generation}:{shapes[chips]}" if chips in shapes else None
        self.python = spec.python if "/" in spec.python else None
        self.env = {
            "JAX_COMPILATION_CACHE_DIR": self.files.uri("jax_cache"),
            "REDUNDANCY_STORAGE_RETRY_S": "300",  # also for the first contact, since no user is waiting
        }

    def startup(self, name: str) -> pathlib.Path:
        """Path of the script that a slice's VMs run at their start."""
        return pathlib.Path(cache_folder() or ".launch") / "startup" / f"{name}.sh"

    def write_startup(self, name: str, zone: str, left_s: float) -> None:
        idle_s = round(self.spec.idle_minutes * 60)
        path, rest = self.startup(name), pathlib.Path(__file__).parents[1] / "startup.sh"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f"#!/bin/sh\nidle_s={idle_s}\nleft_s={max(idle_s, round(left_s))}\n"
            f"delete() {{ {shlex.join(self.delete_argv(name, zone))}; }}\n{rest.read_text()}"
        )

    def _create(self, name: str, zone: str, labels: Mapping[str, str]) -> list[str]:
        spec = self.spec
        optional = {"network": spec.network, "subnetwork": spec.subnetwork, "service-account": spec.service_account}
        return [
            *self._gcloud.argv(_QUEUED, "create", name, zone=zone),
            f"--accelerator-type={spec.accelerator_type}",
            f"--runtime-version={self.runtime}",
            f"--node-id={name}",
            *([f"--{_billing(spec)}"] if _billing(spec) else []),
            f"--valid-until-duration={round(spec.wait_hours * 3600)}s",
            "--labels=" + ",".join(f"{key}={value}" for key, value in labels.items()),
            f"--scopes={_SCOPE}",
            *(f"--{flag}={value}" for flag, value in optional.items() if value),
            *(["--internal-ips"] if spec.internal_ips else []),
            *([f"--metadata-from-file=startup-script={self.startup(name)}"] if spec.self_delete else []),
            *("--async", "--quiet"),
        ]

    def _ssh(self, name: str, zone: str, argv: Sequence[str], workers: Sequence[int]) -> list[str]:
        return [
            *self._gcloud.argv(_QUEUED, "ssh", name, zone=zone),
            *("--node=all", "--batch-size=all", "--quiet"),
            "--worker=" + (",".join(map(str, workers)) or "all"),
            *(["--tunnel-through-iap"] if self.spec.internal_ips else []),
            *(f"--ssh-flag={flag}" for flag in _SSH),
            # gcloud splits this text at blanks and ssh joins it again, so the host's shell reads it unchanged.
            f"--command={shlex.join(argv)}",
        ]

    def delete_argv(self, name: str, zone: str) -> list[str]:
        return [*self._gcloud.argv(_QUEUED, "delete", name, zone=zone), "--force", "--async", "--quiet"]

    def create(self, name: str, zone: str, labels: Mapping[str, str], left_s: float) -> None:
        self.write_startup(name, zone, left_s)
        try:
            self._gcloud.run(self._create(name, zone, labels))
        except CloudError as error:
            if error.kind != "exists":
                raise

    def describe(self, name: str, zone: str) -> Resource:
        try:
            found = self._described(_QUEUED, name, zone)
            if found is None:
                return Resource(name, zone, State.ABSENT)
            resource = _resource(found, zone)
            if resource.state is not State.ACTIVE:
                return resource
            node = self._described("tpu-vm", name, zone) or {}
        except CloudError as error:
            if error.kind in ("account", "permission", "invalid"):
                raise
            return Resource(name, zone, State.UNKNOWN, message=str(error).splitlines()[0])
        state, health = node.get("state", "MISSING"), node.get("health", "HEALTHY")
        hosts = len(node.get("networkEndpoints", []))
        ready = state == "READY" and health in ("HEALTHY", "HEALTH_UNSPECIFIED") and hosts > 0
        message = "" if ready else f"node {state}, {health}, {hosts} hosts"
        return Resource(name, zone, State.ACTIVE, ready, hosts, message, resource.labels)

    def _described(self, kind: str, name: str, zone: str) -> dict | None:
        argv = [*self._gcloud.argv(kind, "describe", name, zone=zone), "--format=json"]
        try:
            return json.loads(self._gcloud.found(argv) or b"null")
        except ValueError as error:
            raise CloudError("unavailable", "gcloud printed no JSON") from error

    def delete(self, name: str, zone: str) -> None:
        self._gcloud.found(self.delete_argv(name, zone))

    def existing(self) -> list[Resource]:
        argv = [*self._gcloud.argv(_QUEUED, "list", zone="-"), "--format=json"]
        found = [_resource(each) for each in json.loads(self._gcloud.run(argv))]
        return [each for each in found if each.labels.get("app") == "redundancy"]

    def execute(self, name: str, zone: str, argv: Sequence[str], workers: Sequence[int], timeout: float) -> str:
        _, stdout, stderr = self._gcloud.attempt(self._ssh(name, zone, argv, workers), timeout=timeout)
        return f"{stdout.decode(errors='replace')}\n{stderr}"

    def denied(self, said: str) -> bool:
        return bool(_DENIED.search(said)) or classify(said).kind in ("account", "permission")

    def plan(self, name: str, zone: str, labels: Mapping[str, str], left_s: float, argv: Sequence[str]) -> list[str]:
        commands = self._create(name, zone, labels), self._ssh(name, zone, argv, ()), self.delete_argv(name, zone)
        return [shlex.join(each) for each in commands]

    def check_workdir(self, workdir: str) -> None:
        if not workdir.startswith("gs://"):
            raise ConfigError(
                f"--workdir {workdir} is on a host's disk, which ends with the slice; wanted gs://BUCKET/PATH."
            )

    def warning(self) -> str | None:
        """A warning if the bucket is not in the region of the zones."""
        bucket, zones = self.spec.bucket.split("/")[2], self.spec.zones
        try:
            argv = ["gcloud", "storage", "buckets", "describe", f"gs://{bucket}", "--format=value(location)"]
            location = Gcloud().run(argv, timeout=30).decode().strip().lower()
        except UserError as error:
            return f"where gs://{bucket} is could not be found out: {str(error).splitlines()[0]}"
        region = {"us": "us-", "eu": "europe-", "asia": "asia-"}.get(location, f"{location}-")
        far = ", ".join(zone for zone in zones if not zone.startswith(region))
        return far and (
            f"WARNING: gs://{bucket} is in {location}, {far} not: every read and write crosses regions, which is slow and "
            "billed by the byte. Take a bucket in the region of the zones."
        )

    def checks(self) -> Iterable[tuple[str, Callable[[], str], str]]:
        def printed(argv: Sequence[str], otherwise: str) -> str:
            if not (found := self._gcloud.run(argv).decode().strip()):
                raise UserError(otherwise)
            return found

        def offered(name: str, zone: str, *words: str) -> str:
            argv = [*self._gcloud.argv(*words, "list", zone=zone), "--format=json"]
            names = [each["name"].rsplit("/", 1)[-1] for each in json.loads(self._gcloud.run(argv))]
            if name not in names:
                raise UserError(f"there is no {name}, but {', '.join(names) or 'nothing'}")
            return name

        kind, account = self.spec.accelerator_type, ["--filter=status:ACTIVE", "--format=value(account)"]
        yield (
            "account",
            lambda: printed(["gcloud", "auth", "list", *account], "nobody is logged in"),
            "gcloud auth login",
        )
        project = ["gcloud", "config", "get", "project"]
        yield "project", lambda: self.spec.project or printed(project, "none is set"), "--config.project"
        for zone in self.zones:
            yield zone, functools.partial(offered, kind, zone, "accelerator-types"), "a zone that has it"
            yield zone, functools.partial(offered, self.runtime, zone, "tpu-vm", "versions"), "--config.runtime_version"
        yield "ssh key", _key, "a key without a passphrase, or one that an agent holds"
        yield "bucket", lambda: self.warning() or "in the region of the zones", "a bucket in the region of the zones"


def _key() -> str:
    path = os.path.expanduser("~/.ssh/google_compute_engine")
    if not os.path.exists(path):
        return "none yet; gcloud makes one at the first ssh"
    opened = subprocess.run(["ssh-keygen", "-y", "-P", "", "-f", path], capture_output=True).returncode == 0
    if opened or b"google_compute_engine" in subprocess.run(["ssh-add", "-l"], capture_output=True).stdout:
        return path
    raise UserError(f"{path} has a passphrase, which nobody is there to type")


def _check(spec: Spec) -> tuple[str, int]:
    """The kind of accelerator and the number in its type; raises ConfigError for invalid fields."""
    bucket, zone = r"gs://[a-z0-9][-_.a-z0-9]+(/[^\s*?\[\]]*)?", r"[a-z]+-[a-z]+\d+-[a-z]"
    spec.need(re.fullmatch(bucket, spec.bucket), "bucket", "gs://BUCKET or gs://BUCKET/FOLDER")
    zones = spec.zones and all(re.fullmatch(zone, each) for each in spec.zones)
    spec.need(zones, "zones", "for example ('us-west4-a',)")
    spec.need(len(set(spec.zones)) == len(spec.zones), "zones", "each zone once")
    found = re.fullmatch(rf"({'|'.join(TYPES)})-([1-9]\d*)", spec.accelerator_type)
    wanted = "v4-N, v5litepod-N, v5p-N or v6e-N; TPU7x and later are not in the Cloud TPU API"
    spec.need(found and int(found[2]) % TYPES[found[1]][0] == 0, "accelerator_type", wanted)
    spec.need(not (spec.spot and spec.reserved), "reserved", "False if spot is True")
    spec.need(spec.budget_chip_hours > 0, "budget_chip_hours", "the most chip-hours that this run may use")
    spec.need(spec.hosts == 1, "hosts", "1: a slice of Cloud TPU has as many hosts as its type says")
    return found[1], int(found[2])


def _billing(spec: Spec) -> str:
    return "spot" if spec.spot else "reserved" if spec.reserved else ""


def _resource(found: dict, zone: str = "") -> Resource:
    """A queued resource, from gcloud's JSON."""
    path = found.get("name", "").split("/")
    name, zone = path[-1], zone or (path[3] if len(path) > 3 else "")
    shown = found.get("state", {})
    state = _STATES.get(shown.get("state"), State.UNKNOWN)
    error = shown.get("failedData", {}).get("error", {})
    failed = _CODES.get(error.get("code"), "") + error.get("message", "")
    message = failed or (shown.get("state", "no state") if state in (State.BROKEN, State.UNKNOWN) else "")
    nodes = found.get("tpu", {}).get("nodeSpec", [{}])
    return Resource(name, zone, state, message=message, labels=nodes[0].get("node", {}).get("labels", {}))


class GcsFiles:
    """Files in Cloud Storage, with its generations."""

    def __init__(self, root: str, gcloud: Gcloud):
        self.root, self._gcloud = root, gcloud

    def uri(self, path: str) -> str:
        return f"{self.root}/{path}"

    def read(self, path: str) -> bytes | None:
        return self._gcloud.found(["gcloud", "storage", "cat", self.uri(path)])

    def generation(self, path: str) -> int:
        argv = ["gcloud", "storage", "objects", "describe", self.uri(path), "--format=value(generation)"]
        return int(self._gcloud.found(argv) or 0)

    def write(self, path: str, data: bytes, generation: int | None = None) -> None:
        condition = [] if generation is None else [f"--if-generation-match={generation}"]
        self._gcloud.run(["gcloud", "storage", "cp", *condition, "-", self.uri(path)], stdin=data, timeout=600)

    def lines(self, pattern: str) -> list[bytes]:
        return (self.read(pattern) or b"").splitlines()

    def names(self, path: str) -> list[str]:
        found = self._gcloud.found(["gcloud", "storage", "ls", self.uri(path).rstrip("/") + "/"]) or b""
        return sorted(line.rstrip("/").rsplit("/", 1)[-1] for line in found.decode().split())
