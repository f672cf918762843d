"""Calls between the services and the keepers, and between router and scheduler.

Control calls to a keeper are HTTP with a signed header (see `signing`); their
bodies are here. Demand and activity travel on core NATS.
"""

import struct
from typing import Literal

import msgspec

from schemas.builds import Artifact
from schemas.endpoints import Endpoint
from schemas.specs import Interface, Limits

INSTANCE_HEADER = "x-wasmfn-instance"
"""Carries the instance token on every invocation."""
REASON_HEADER = "x-wasmfn-reason"
"""On a 421: `wrong-instance`, `draining` or `busy`. The request was not executed."""
RUN_MS_HEADER = "x-wasmfn-run-ms"
"""On an answer: milliseconds from the sandbox's creation to the end of the run."""
PARAMETER_HEADER_PREFIX = "x-wasmfn-param-"
"""On a request to a keeper: a path parameter of the route. Never taken from a client."""

KeeperProblem = Literal[
    "unsigned", "stale-term", "replay", "full", "artifact-missing", "bad-artifact", "bad-request",
    "no-such-instance", "busy", "too-large", "timeout", "internal",
]  # fmt: skip


class LoadRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Load one process of a function. On the wire: `encode_load`."""

    instance: str
    namespace: str
    function: str
    revision: int
    token: str
    file_name: str
    interface: Interface
    arguments: tuple[str, ...]
    variables: dict[str, str]
    """Variables and secrets together: the child needs no more than their values."""
    limits: Limits
    concurrency: int
    artifact: Artifact
    correlation: str = ""


class LoadReply(msgspec.Struct, frozen=True):
    """The process serves. `steps_ms` breaks the load down."""

    instance: str
    ip: str
    port: int
    pid: int
    steps_ms: dict[str, float] = {}


class UnloadRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """End an instance.

    `if_idle` is decided by the process itself: it agrees, and answers 421 from
    then on, only if nothing is in flight and nothing came for `idle_s`.
    """

    instance: str
    mode: Literal["drain", "if_idle", "kill"]
    idle_s: float = 0.0
    deadline_s: float = 60.0
    """How long requests in flight may take before the process is ended."""


class UnloadReply(msgspec.Struct, frozen=True):
    """What the instance does now. `busy` is only said to `if_idle`, with its idle time."""

    state: Literal["draining", "gone", "busy"]
    idle_s: float = 0.0


class Problem(msgspec.Struct, frozen=True):
    """Why a keeper refused a control call."""

    problem: KeeperProblem
    message: str


class KeeperHealth(msgspec.Struct, frozen=True):
    """`GET /healthz` of a keeper: unsigned, and nothing secret in it."""

    keeper: str
    boot: str
    engine: str
    capacity: int
    loaded: int
    draining: bool = False


class InstanceState(msgspec.Struct, frozen=True):
    """An instance as its keeper sees it."""

    instance: str
    namespace: str
    function: str
    revision: int
    port: int
    pid: int
    state: Literal["loading", "serving", "draining", "gone"]
    served: int = 0
    in_flight: int = 0
    idle_s: float = 0.0


class WatchSnapshot(msgspec.Struct, frozen=True, tag_field="line", tag="snapshot"):
    """First line of `GET /watch`: everything the keeper holds."""

    keeper: str
    boot: str
    capacity: int
    instances: list[InstanceState]


class WatchInstance(msgspec.Struct, frozen=True, tag_field="line", tag="instance"):
    """An instance changed. `gone` carries the reason in words."""

    instance: InstanceState
    reason: str = ""


class WatchTick(msgspec.Struct, frozen=True, tag_field="line", tag="tick"):
    """Each second: the keeper is alive."""

    loaded: int


WatchLine = WatchSnapshot | WatchInstance | WatchTick


# Made once: a keeper's processes are forked and would each find out what the fields' types mean.
_decode_request = msgspec.json.Decoder(LoadRequest).decode


def encode_load(request: LoadRequest, artifact: bytes) -> bytes:
    """Return the body of a load call: 4 bytes length (big-endian), JSON, artifact bytes.

    `artifact` may be empty: then the keeper takes it from its cache, or
    answers `artifact-missing` and the caller sends it.
    """
    head = msgspec.json.encode(request)
    return struct.pack(">I", len(head)) + head + artifact


def decode_load(body: bytes | memoryview) -> tuple[LoadRequest, memoryview]:
    """Return the request and the artifact's bytes (a view, maybe empty) of a load call.

    Raises:
        msgspec.DecodeError: the body is not one that `encode_load` makes.
    """
    view = memoryview(body)
    if len(view) < 4:
        raise msgspec.DecodeError("the body is shorter than its length prefix")
    (length,) = struct.unpack_from(">I", view)
    if len(view) < 4 + length:
        raise msgspec.DecodeError("the body is shorter than its length prefix says")
    try:
        return _decode_request(view[4 : 4 + length]), view[4 + length :]
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(str(error)) from error


class DemandRequest(msgspec.Struct, frozen=True):
    """A router needs an endpoint of a function (the subject says which).

    One request stands for all that are parked for the function; asking again
    is harmless.
    """

    router: str
    reason: Literal["cold", "saturated", "failed"]
    parked: int
    deadline_s: float
    """How long the router will wait for the reply."""
    failed_instances: list[str] = []
    """Instances whose calls just failed without an answer."""
    correlation: str = ""


class DemandMet(msgspec.Struct, frozen=True, tag_field="demand", tag="met"):
    """Endpoints that serve now. `steps_ms`: the scheduler's part of the cold start."""

    endpoints: list[Endpoint]
    steps_ms: dict[str, float] = {}


class DemandRefused(msgspec.Struct, frozen=True, tag_field="demand", tag="refused"):
    """No endpoint will come before the deadline, and why."""

    message: str
    retry_after_s: float


DemandReply = DemandMet | DemandRefused


class FunctionActivity(msgspec.Struct, frozen=True):
    """What one router has of one function at this moment."""

    namespace: str
    function: str
    in_flight: int
    parked: int
    served: int = 0
    """Answered since the report before: of a call shorter than a second nothing else tells."""


class Activity(msgspec.Struct, frozen=True):
    """Published by each router each second, and at once when it has applied what is in force.

    Functions without any are left out.
    """

    router: str
    functions: list[FunctionActivity]
    active_sequence: int = 0
    """The router has applied the stream ACTIVE up to here: its leader calls an object active
    when every router has it."""
