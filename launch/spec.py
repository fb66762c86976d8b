"""What to launch: the fields of a launch config, checked, and what follows from them."""

import ast
import contextlib
import dataclasses
import getpass
import hashlib
import math
import os
import re
from collections.abc import Mapping

from ml_collections import ConfigDict

from redundancy.config import evaluate
from redundancy.runtime.errors import ConfigError, nearest

_NAME = r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?"
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|PRIVATE", re.IGNORECASE)


def _field(default, doc: str):
    return dataclasses.field(default=default, metadata={"doc": doc})


@dataclasses.dataclass(frozen=True)
class Spec:
    """A launch config. The metadata of each field tells what it is for."""

    backend: str = _field("queued_resources", "queued_resources: Cloud TPU; local: processes of this machine")
    run: str = _field("", "name of the run; made from the command where empty, so the same command is the same run")
    bucket: str = _field("", "gs://BUCKET[/FOLDER] in the zones' region, for code, logs and status; local: a folder")
    project: str = _field("", "Google Cloud project; gcloud's own where empty")
    zones: tuple[str, ...] = _field((), "zones to try, the best first; the next one where capacity is wanting")
    accelerator_type: str = _field("v5litepod-16", "v4-N, v5litepod-N, v5p-N or v6e-N, as Cloud TPU names them")
    runtime_version: str = _field("", "software of the TPU VM; the accelerator's usual one where empty")
    spot: bool = _field(True, "spot capacity: cheap, taken back at any moment")
    reserved: bool = _field(False, "capacity of a reservation")
    slices: int = _field(1, "slices, each with the command of its own: {slice} and {slices} in it are replaced")
    hosts: int = _field(1, "local: processes of a slice")
    budget_chip_hours: float = _field(0.0, "all slices end when this many chip-hours are used; needed, but for local")
    usd_per_chip_hour: float = _field(0.0, "your price, for the estimates; 0: not told")
    wait_hours: float = _field(6.0, "a request that is not granted by then expires")
    give_up_hours: float = _field(168.0, "no new slice is asked for after this time since the run began")
    max_preemptions: int = _field(100, "slices lost before the run gives up")
    max_failures: int = _field(3, "failures of the program, less than an hour apart, before the run gives up")
    service_account: str = _field("", "of the VMs, which reads and writes the bucket; the default one where empty")
    network: str = _field("", "of the VMs")
    subnetwork: str = _field("", "of the VMs")
    internal_ips: bool = _field(False, "VMs have no address in the internet; ssh goes through Identity-Aware Proxy")
    self_delete: bool = _field(
        True, "a slice that nobody watches deletes itself (the service account must be allowed to)"
    )
    idle_minutes: float = _field(30.0, "time after the end of the program until it does")
    python: str = _field("3.12", "version to install on the VMs; or the path of a Python there that has all it needs")
    extras: tuple[str, ...] = _field(("train", "tpu", "gcp"), "extras of pyproject.toml that are installed on the VMs")
    devices: tuple[str, ...] = _field(
        ("/dev/accel*", "/dev/vfio/[0-9]*"), "files of the chips, which one process holds"
    )
    env: tuple[tuple[str, str], ...] = _field((), "environment variables of the program: a dict. Nothing secret")
    poll_s: float = _field(30.0, "seconds between two looks at a slice")
    mirror_s: float = _field(30.0, "seconds between two copies of a host's log and status to the bucket")
    silent_minutes: float = _field(10.0, "a host that is not heard of for so long is lost")

    @property
    def root(self) -> str:
        return self.bucket.rstrip("/") + "/launch"

    def slice_name(self, index: int) -> str:
        return f"{self.run}-{index}"

    def mark(self, name: str) -> str:
        """What processes of a slice carry in their environment: on a machine of many runs, the bucket tells them apart."""
        return f"{name}-{hashlib.sha256(self.root.encode()).hexdigest()[:8]}"


FIELDS = {field.name: field for field in dataclasses.fields(Spec)}


def defaults() -> ConfigDict:
    """A launch config with every field at its default."""
    config = ConfigDict({field.name: field.default for field in dataclasses.fields(Spec) if field.name != "env"})
    config.env = ConfigDict()
    return config


def describe() -> str:
    """The fields with their defaults and meaning, a line each."""
    return "\n".join(f"  {name:18} {field.metadata['doc']} [{field.default!r}]" for name, field in FIELDS.items())


def owner() -> str:
    """Who launches, as a label of Google Cloud may spell it."""
    return re.sub(r"[^a-z0-9_-]", "-", getpass.getuser().lower())[:63] or "unknown"


def load(path: str, given: Mapping[str, str]) -> Spec:
    """The checked spec of a config file, with the fields that the command line gives.

    Raises:
      ConfigError: a mistake in either.
    """
    file, _, argument = path.partition(":")
    if not os.path.isfile(file):
        raise ConfigError(f"--config: there is no file {file!r}; for example launch/configs/v5e_spot.py")
    config = evaluate(file, *([argument] if argument else []))
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"get_config returned {type(config).__name__}; wanted an ml_collections.ConfigDict.")
    values = config.to_dict()
    for name, text in given.items():
        if name not in FIELDS:
            raise ConfigError(f"--config.{name}: there is no such field.{nearest(name, FIELDS)} --help has all.")
        values[name] = _parsed(text, FIELDS[name].default)
    return resolve(values)


def _parsed(text: str, default):
    """The value of a field that a text stands for; the text where it stands for none."""
    if isinstance(default, str):
        return text
    with contextlib.suppress(ValueError, SyntaxError):
        if isinstance(default, float):
            return float(text)
        return ast.literal_eval(text.title() if isinstance(default, bool) else text)
    return text


def resolve(config: Mapping) -> Spec:
    """The checked spec of a launch config.

    Raises:
      ConfigError: a field is unknown, of another type, or what it says cannot be.
    """
    values = {}
    for name, value in config.items():
        if name not in FIELDS:
            raise ConfigError(f"launch config: there is no field {name!r}.{nearest(name, FIELDS)}")
        values[name] = _typed(name, value, FIELDS[name].default)
    spec = Spec(**values)
    _check(spec)
    return spec


def _typed(name: str, value, default):
    if name == "env":
        if hasattr(value, "items") and all(isinstance(text, str) for pair in value.items() for text in pair):
            return tuple(sorted(value.items()))
        wanted = "a dict of names and texts"
    elif isinstance(default, tuple):
        value = (value,) if isinstance(value, str) else value
        if isinstance(value, (tuple, list)) and all(isinstance(item, str) for item in value):
            return tuple(value)
        wanted = "texts, for example ('us-west4-a',)"
    else:
        value = float(value) if isinstance(default, float) and type(value) is int else value
        if type(value) is type(default):
            return value
        wanted = f"{type(default).__name__}, for example {default!r}"
    raise ConfigError(f"launch config: {name} is {value!r}; wanted {wanted}.")


def _check(spec: Spec) -> None:
    from launch import backends  # whose modules need Spec

    def need(holds: bool, name: str, wanted: str) -> None:
        if not holds:
            raise ConfigError(f"launch config: {name} is {getattr(spec, name)!r}; wanted {wanted}.")

    need(spec.backend in backends.NAMES, "backend", " or ".join(backends.NAMES))
    need(not spec.run or re.fullmatch(_NAME, spec.run), "run", "a to z, 0 to 9 and -, at most 40, a letter first")
    for name in ("slices", "hosts", "max_failures"):
        need(1 <= getattr(spec, name) <= 1000, name, "1 to 1000")
    need(0 <= spec.max_preemptions <= 10_000, "max_preemptions", "0 to 10000")
    for name in ("wait_hours", "give_up_hours", "poll_s", "mirror_s", "silent_minutes", "idle_minutes"):
        need(0 < getattr(spec, name) < math.inf, name, "a number above 0")
    for name in ("budget_chip_hours", "usd_per_chip_hour"):
        need(0 <= getattr(spec, name) < math.inf, name, "a number, 0 or above")
    for name, _ in spec.env:
        named = re.fullmatch(r"[A-Za-z_]\w*", name) and not _SECRET.search(name)
        need(named, "env", f"names of variables that hold no secret, and not {name!r}: they are stored in the bucket")
    backends.module(spec.backend).check(spec, need)
