"""The fields of a launch config, their checks, and values derived from them."""

import ast
import contextlib
import dataclasses
import getpass
import hashlib
import os
import re
from collections.abc import Mapping

from ml_collections import ConfigDict

from redundancy.config import Field, between, convert_value, evaluate
from redundancy.runtime.errors import ConfigError, nearest

_NAME = re.compile(r"([a-z]([-a-z0-9]{0,38}[a-z0-9])?)?")
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|PRIVATE", re.IGNORECASE)
_NAMED = dict(wanted="a to z, 0 to 9 and -, at most 40, a letter first", check=_NAME.fullmatch)
_ABOVE_0 = dict(wanted="a number above 0", check=lambda value: value > 0)
_MANY = between(1, 1000)
_FROM_0 = dict(wanted="a number, 0 or above", check=lambda value: value >= 0)


def _field(default, doc: str, **check):
    item = str if isinstance(default, tuple) else None
    return dataclasses.field(default=default, metadata={"field": Field("launch", default, doc, item=item, **check)})


@dataclasses.dataclass(frozen=True)
class Spec:
    """A launch config. The backend checks the fields that only it uses."""

    backend: str = _field("queued_resources", "queued_resources: Cloud TPU; local: processes of this machine")
    run: str = _field("", "name of the run; made from the command if empty", **_NAMED)
    bucket: str = _field("", "gs://BUCKET[/FOLDER] in the zones' region, for code, logs and status; local: a folder")
    project: str = _field("", "Google Cloud project; gcloud's own if empty")
    zones: tuple[str, ...] = _field((), "zones to try, the best first; the next one when a zone has no capacity")
    accelerator_type: str = _field("v5litepod-16", "v4-N, v5litepod-N, v5p-N or v6e-N, as Cloud TPU names them")
    runtime_version: str = _field("", "software of the TPU VM; the accelerator's usual one if empty")
    spot: bool = _field(True, "spot capacity: cheap, but may be preempted at any moment")
    reserved: bool = _field(False, "capacity of a reservation")
    slices: int = _field(1, "slices, each with its own command: {slice} and {slices} in it are replaced", **_MANY)
    hosts: int = _field(1, "local: processes of a slice", **_MANY)
    budget_chip_hours: float = _field(0.0, "all slices end when this is used up; local: 0 for no limit", **_FROM_0)
    usd_per_chip_hour: float = _field(0.0, "your price, for the estimates; 0: none is printed", **_FROM_0)
    wait_hours: float = _field(6.0, "time after which a request that was not granted expires", **_ABOVE_0)
    give_up_hours: float = _field(168.0, "no new slice is asked for after this time since the run began", **_ABOVE_0)
    max_preemptions: int = _field(100, "slices lost before the run gives up", **between(0, 10_000))
    max_failures: int = _field(3, "failures of the program, each within an hour, before the run gives up", **_MANY)
    service_account: str = _field("", "account of the VMs, which reads and writes the bucket; empty: the default one")
    network: str = _field("", "network of the VMs")
    subnetwork: str = _field("", "subnetwork of the VMs")
    internal_ips: bool = _field(False, "VMs have no external address; ssh uses Identity-Aware Proxy")
    self_delete: bool = _field(True, "a slice without a controller deletes itself, if the service account may")
    idle_minutes: float = _field(30.0, "time from the end of the program until self_delete", **_ABOVE_0)
    python: str = _field("3.12", "version to install on the VMs; or path of a Python there that has all packages")
    extras: tuple[str, ...] = _field(("train", "tpu", "gcp"), "extras of pyproject.toml that are installed on the VMs")
    devices: tuple[str, ...] = _field(("/dev/accel*", "/dev/vfio/[0-9]*"), "device files of the chips, for one process")
    env: tuple[tuple[str, str], ...] = _field((), "environment variables of the program: a dict, without secrets")
    poll_s: float = _field(30.0, "seconds between two observations of a slice", **_ABOVE_0)
    mirror_s: float = _field(30.0, "seconds between two copies of a host's log and status to the bucket", **_ABOVE_0)
    silent_minutes: float = _field(10.0, "a host that does not report for this time counts as lost", **_ABOVE_0)

    @property
    def root(self) -> str:
        return self.bucket.rstrip("/") + "/launch"

    def mark(self, name: str) -> str:
        """Value of an environment variable that marks the processes of a slice; includes the bucket, as runs may share machines."""
        return f"{name}-{hashlib.sha256(self.root.encode()).hexdigest()[:8]}"

    def need(self, holds: object, name: str, wanted: str) -> None:
        """Raises ConfigError for the field `name` unless `holds` is true."""
        if not holds:
            raise ConfigError(f"config.{name} is {getattr(self, name)!r}; wanted: {wanted}.")


FIELDS = {field.name: field.metadata["field"] for field in dataclasses.fields(Spec)}


def defaults() -> ConfigDict:
    """A launch config with every field at its default."""
    return ConfigDict({name: field.default for name, field in FIELDS.items()} | {"env": ConfigDict()})


def describe() -> str:
    """A text with a line for each field: name, meaning and default."""
    return "\n".join(f"  {name:18} {field.doc} [{field.default!r}]" for name, field in FIELDS.items())


def owner() -> str:
    """The user name, in the form that labels of Google Cloud allow."""
    return re.sub(r"[^a-z0-9_-]", "-", getpass.getuser().lower())[:63] or "unknown"


def load(path: str, given: Mapping[str, str]) -> Spec:
    """The checked spec from a config file and fields of the command line; raises ConfigError for mistakes in either."""
    file, _, argument = path.partition(":")
    if not os.path.isfile(file):
        raise ConfigError(f"--config: there is no file {file!r}; for example launch/configs/v5e_spot.py")
    config = evaluate(file, *([argument] if argument else []))
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"get_config returned {type(config).__name__}; wanted an ml_collections.ConfigDict.")
    return resolve(config.to_dict() | {name: _parsed(name, text) for name, text in given.items()})


def _parsed(name: str, text: str):
    """The value that a text from the command line represents, or the text itself."""
    default = FIELDS[name].default if name in FIELDS else ""
    if not isinstance(default, str):
        with contextlib.suppress(ValueError, SyntaxError):
            return ast.literal_eval(text.title() if isinstance(default, bool) else text)
    return text


def resolve(config: Mapping) -> Spec:
    """The checked spec of a launch config; raises ConfigError if a field is unknown, has a wrong type or is out of range."""
    values = {}
    for name, value in config.items():
        if name not in FIELDS:
            raise ConfigError(f"config.{name} is no field of a launch config.{nearest(name, FIELDS)} See --help.")
        values[name] = _variables(value) if name == "env" else convert_value(name, FIELDS[name], value)
    return Spec(**values)


def _variables(env) -> tuple[tuple[str, str], ...]:
    if not hasattr(env, "items") or not all(isinstance(text, str) for pair in env.items() for text in pair):
        raise ConfigError(f"config.env is {env!r}; wanted: a dict of names and texts.")
    for name in env:
        if not re.fullmatch(r"[A-Za-z_]\w*", name) or _SECRET.search(name):
            raise ConfigError(
                f"config.env has {name!r}; wanted: names of variables without secrets (the bucket has them)."
            )
    return tuple(sorted(env.items()))
