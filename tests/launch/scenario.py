"""Data of the fake cloud of cloud.py: errors of the API, what becomes of a slice, and what exists."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Error:
    """An error as the API reports it: HTTP's code, the status word that gcloud prints, and the text."""

    code: int
    status: str
    message: str


CAPACITY = Error(
    429,
    "RESOURCE_EXHAUSTED",
    'There is no more capacity in the zone "europe-west4-a"; you can try in another zone where Cloud TPU Nodes are offered'
    " (see https://cloud.google.com/tpu/docs/regions)",
)
QUOTA = Error(
    429,
    "RESOURCE_EXHAUSTED",
    "Quota 'TPUV5sPreemptibleLitepodPerProjectPerRegionForTPUAPI' exhausted. Limit 64 in region us-west4",
)
RESERVATION = Error(
    400,
    "FAILED_PRECONDITION",
    "Insufficient reserved capacity. Contact customer support to increase your reservation.",
)
DENIED = Error(403, "PERMISSION_DENIED", "Permission 'tpu.queuedResources.create' denied on 'projects/p/locations/z'")
INVALID = Error(400, "INVALID_ARGUMENT", "Cloud TPU received a bad request. The accelerator type is not known")
EXISTS = Error(409, "ALREADY_EXISTS", "Resource already exists")
UNAVAILABLE = Error(503, "UNAVAILABLE", "The service is currently unavailable.")


@dataclasses.dataclass(frozen=True)
class Scenario:
    """What happens to one create request, and to the queued resource that it makes.

    A poll is a describe of the queued resource, whatever its answer. ssh also looks at it, which is no poll.

    Attributes:
      create_error: the answer to the create; nothing is made then, but where `made`.
      creating, waiting, provisioning: polls that find the states CREATING, WAITING_FOR_RESOURCES and PROVISIONING, one after
        the other; then it is ACTIVE, or FAILED because of `failed`.
      preempted: the poll after the first that found it ACTIVE at which it is preempted; 1 is the next one.
      node_only: a preemption shows in the node's state alone.
      notice: seconds between SIGTERM and SIGKILL to the machines' processes at a preemption.
      errors: polls answered by UNAVAILABLE, counted from 1.
      deleting: polls that still find it after its deletion was asked for.
      unreachable: for how many ssh commands a worker cannot be reached.
      dropped: for how many ssh commands the connection to a worker is lost once the command has run, so that gcloud runs it
        again.
    """

    create_error: Error | None = None
    made: bool = False
    creating: int = 0
    waiting: int = 1
    provisioning: int = 1
    failed: Error | None = None
    preempted: int | None = None
    node_only: bool = False
    notice: float = 0.0
    errors: Iterable[int] = ()
    deleting: int = 1
    unreachable: Mapping[int, int] = dataclasses.field(default_factory=dict)
    dropped: Mapping[int, int] = dataclasses.field(default_factory=dict)


class Request(NamedTuple):
    """As the cloud saw it. `command` of gcloud, such as "queued-resources.describe"; `code` of HTTP, in the answer."""

    command: str
    method: str
    zone: str
    name: str
    code: int


class Resource(NamedTuple):
    """What exists under one name. `node` is the node's state, or "" where it has none."""

    zone: str
    name: str
    state: str
    node: str


@dataclasses.dataclass
class Queued:
    """A queued resource that exists."""

    project: str
    zone: str
    name: str
    body: Json
    scenario: Scenario
    number: int
    subnet: int = 0
    polls: int = 0
    active_polls: int = 0
    state: str = "CREATING"
    node: str = ""
    health: str = ""
    initiator: str = "SERVICE"
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    deleting_polls: int | None = None
    known: bool = False  # that it exists was told to somebody
    doubtful: bool = False  # the last answer about it was an error of the server
    unreachable: dict[int, int] = dataclasses.field(default_factory=dict)
    dropped: dict[int, int] = dataclasses.field(default_factory=dict)

    @property
    def path(self) -> str:
        return f"projects/{self.project}/locations/{self.zone}/queuedResources/{self.name}"
