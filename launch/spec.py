"""What to launch: the fields of a launch config, checked, and what follows from them."""

import dataclasses
import getpass
import hashlib
import math
import re
import sys

from ml_collections import ConfigDict

from redundancy.runtime.errors import ConfigError, nearest

# Accelerator types, what their number counts per chip, the TPU VM's software (Google's page on runtimes, 2026), and the
# names of their topologies for the compiler.
_PLANE = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_CUBE = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8"}
TYPES = {
    "v4": (2, "tpu-ubuntu2204-base", "v4", _CUBE),
    "v5litepod": (1, "v2-alpha-tpuv5-lite", "v5e", _PLANE),
    "v5p": (2, "v2-alpha-tpuv5", "v5p", _CUBE),
    "v6e": (1, "v2-alpha-tpuv6e", "v6e", _PLANE),
}
BACKENDS = ("queued_resources", "local")
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
    slices: int = _field(
        1, "slices, each with a run of the command of its own: {slice} and {slices} in it are replaced"
    )
    hosts: int = _field(1, "local: processes of a slice")
    budget_chip_hours: float = _field(0.0, "all slices end when this many chip-hours are used; needed, but for local")
    usd_per_chip_hour: float = _field(0.0, "your price, for the estimates; 0: not told")
    wait_hours: float = _field(6.0, "a request that is not granted by then expires")
    give_up_hours: float = _field(168.0, "no new slice is asked for after this time since the run began")
    max_preemptions: int = _field(100, "slices lost before the run gives up")
    max_failures: int = _field(
        3, "failures of the program, with less than an hour between them, before the run gives up"
    )
    service_account: str = _field(
        "", "of the VMs; it needs to read and write the bucket. Compute Engine's default where empty"
    )
    network: str = _field("", "of the VMs")
    subnetwork: str = _field("", "of the VMs")
    internal_ips: bool = _field(False, "VMs have no address in the internet; ssh goes through Identity-Aware Proxy")
    self_delete: bool = _field(
        True, "a slice that nobody watches any more deletes itself (the service account must be allowed to)"
    )
    idle_minutes: float = _field(30.0, "time after the end of the program until it does")
    python: str = _field("3.12", "version to install on the VMs; or the path of a Python there that has all it needs")
    extras: tuple[str, ...] = _field(("tpu", "gcp"), "extras of pyproject.toml that are installed on the VMs")
    devices: tuple[str, ...] = _field(
        ("/dev/accel*", "/dev/vfio/[0-9]*"), "files of the chips, which one process may hold"
    )
    env: tuple[tuple[str, str], ...] = _field((), "environment variables of the program: a dict. Nothing secret")
    poll_s: float = _field(30.0, "seconds between two looks at a slice")
    mirror_s: float = _field(30.0, "seconds between two copies of a host's log and status to the bucket")
    silent_minutes: float = _field(10.0, "a host that is not heard of for so long is lost")

    @property
    def chips(self) -> int:
        """Chips of one slice; local: 1 for each process."""
        if self.backend == "local":
            return self.hosts
        kind, _, number = self.accelerator_type.rpartition("-")
        return int(number) // TYPES[kind][0]

    @property
    def topology(self) -> str | None:
        """As `redundancy preflight --topology` spells it; None where the type has none of the usual ones."""
        kind, _, _ = self.accelerator_type.rpartition("-")
        _, _, generation, shapes = TYPES[kind]
        return f"{generation}:{shapes[self.chips]}" if self.chips in shapes else None

    @property
    def runtime(self) -> str:
        return self.runtime_version or TYPES[self.accelerator_type.rpartition("-")[0]][1]

    @property
    def interpreter(self) -> str | None:
        """The Python that the hosts have already; None where one is set up."""
        return sys.executable if self.backend == "local" else self.python if "/" in self.python else None

    @property
    def budget_hours(self) -> float:
        """Hours that all slices together may last, were they to run all the time; infinite without a budget."""
        return self.budget_chip_hours / (self.chips * self.slices) if self.budget_chip_hours else math.inf

    @property
    def root(self) -> str:
        return self.bucket.rstrip("/") + "/launch"

    def slice_name(self, index: int) -> str:
        return f"{self.run}-{index}"

    def mark(self, name: str) -> str:
        """What processes of a slice carry in their environment: on a machine of many runs, the bucket tells them apart."""
        return f"{name}-{hashlib.sha256(self.root.encode()).hexdigest()[:8]}"


def defaults() -> ConfigDict:
    """A launch config with every field at its default."""
    config = ConfigDict({field.name: field.default for field in dataclasses.fields(Spec) if field.name != "env"})
    config.env = ConfigDict()
    return config


def describe() -> str:
    """The fields with their defaults and meaning, a line each."""
    return "\n".join(
        f"  {field.name:18} {field.metadata['doc']} [{field.default!r}]" for field in dataclasses.fields(Spec)
    )


def owner() -> str:
    """Who launches, as a label of Google Cloud may spell it."""
    return re.sub(r"[^a-z0-9_-]", "-", getpass.getuser().lower())[:63] or "unknown"


def resolve(config: ConfigDict) -> Spec:
    """The checked spec of a launch config.

    Raises:
      ConfigError: a field is unknown, of another type, or what it says cannot be.
    """
    fields = {field.name: field for field in dataclasses.fields(Spec)}
    if not hasattr(config, "items"):
        raise ConfigError(f"get_config returned {type(config).__name__}; wanted an ml_collections.ConfigDict.")
    values = {}
    for name, value in config.items():
        if name not in fields:
            raise ConfigError(f"launch config: there is no field {name!r}.{nearest(name, fields)}")
        values[name] = _typed(name, value, fields[name].default)
    spec = Spec(**values)
    _check(spec)
    return spec


def _typed(name: str, value, default):
    if name == "env":
        if not hasattr(value, "items") or not all(isinstance(text, str) for pair in value.items() for text in pair):
            shown = dict(value) if hasattr(value, "items") else value
            raise ConfigError(f"launch config: env is {shown!r}; wanted a dict of names and texts.")
        return tuple(sorted(value.items()))
    if isinstance(default, tuple):
        value = (value,) if isinstance(value, str) else value
        if not isinstance(value, (tuple, list)) or not all(isinstance(item, str) for item in value):
            raise ConfigError(f"launch config: {name} is {value!r}; wanted texts, for example ('us-west4-a',).")
        return tuple(value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not type(default):
        raise ConfigError(f"launch config: {name} is {value!r}; wanted a {type(default).__name__}, as {default!r}.")
    return value


def _check(spec: Spec) -> None:
    def need(holds: bool, name: str, wanted: str) -> None:
        if not holds:
            raise ConfigError(f"launch config: {name} is {getattr(spec, name)!r}; wanted {wanted}.")

    need(spec.backend in BACKENDS, "backend", " or ".join(BACKENDS))
    need(not spec.run or re.fullmatch(_NAME, spec.run), "run", "a to z, 0 to 9 and -, at most 40, a letter first")
    for name in ("slices", "hosts", "max_failures"):
        need(1 <= getattr(spec, name) <= 1000, name, "1 to 1000")
    need(0 <= spec.max_preemptions <= 10_000, "max_preemptions", "0 to 10000")
    for name in ("wait_hours", "give_up_hours", "poll_s", "mirror_s", "silent_minutes", "idle_minutes"):
        need(0 < getattr(spec, name) < 1e5, name, "a number above 0")
    need(0 <= spec.budget_chip_hours < math.inf, "budget_chip_hours", "a number, 0 or more")
    need(0 <= spec.usd_per_chip_hour < math.inf, "usd_per_chip_hour", "a number, 0 or more")
    need(bool(spec.bucket), "bucket", "gs://BUCKET in the region of the zones, or a folder where backend is local")
    for name, _ in spec.env:
        if not re.fullmatch(r"[A-Za-z_]\w*", name) or _SECRET.search(name):
            raise ConfigError(
                f"launch config: env has {name!r}; wanted names of variables that hold no secret: they are stored in the "
                "bucket. Give the service account the right to read what the program needs."
            )
    if spec.backend == "local":
        need("://" not in spec.bucket, "bucket", "a folder of this machine, as backend is local")
        return
    need(
        re.fullmatch(r"gs://[a-z0-9][-_.a-z0-9]+(/[^\s*?\[\]]*)?", spec.bucket),
        "bucket",
        "gs://BUCKET or gs://BUCKET/FOLDER",
    )
    zone = r"[a-z]+-[a-z]+\d+-[a-z]"
    need(spec.zones and all(re.fullmatch(zone, each) for each in spec.zones), "zones", "for example ('us-west4-a',)")
    need(len(set(spec.zones)) == len(spec.zones), "zones", "each zone once")
    kind, _, number = spec.accelerator_type.rpartition("-")
    if kind.startswith(("tpu7", "v7")):
        raise ConfigError(
            f"launch config: accelerator_type is {spec.accelerator_type!r}: TPU7x and later are not in the Cloud TPU API "
            "but in Compute Engine, which launch does not speak yet. Wanted v4-N, v5litepod-N, v5p-N or v6e-N."
        )
    known = kind in TYPES and number.isdecimal() and int(number) > 0 and int(number) % TYPES[kind][0] == 0
    need(known, "accelerator_type", "v4-N, v5litepod-N, v5p-N or v6e-N, for example v5litepod-16")
    need(not (spec.spot and spec.reserved), "reserved", "False where spot is True: a slice is one or the other")
    need(spec.budget_chip_hours > 0, "budget_chip_hours", "the most chip-hours that this run may use")
    need(spec.hosts == 1, "hosts", "1: a slice of Cloud TPU has as many hosts as its type says")
