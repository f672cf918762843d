"""Facts about pods, told by the podwatch of their node.

A pod is known by its uid. Addresses are reused, uids are not: once a uid is
told dead it stays dead.
"""

from datetime import datetime
from typing import Final, Literal

import msgspec

PodPhase = Literal["pending", "running", "dead"]

LABEL_ROLE: Final = "wasmfn/role"
"""`keeper`, or `function` for a pod that holds one function natively."""
ROLE_KEEPER: Final = "keeper"
ROLE_FUNCTION: Final = "function"
LABEL_NAMESPACE: Final = "wasmfn/namespace"
"""The tenant whose functions the keeper may hold."""
LABEL_DEDICATED: Final = "wasmfn/dedicated"
"""`<function>` when the keeper belongs to one function (`isolation: pod`)."""

LABEL_FUNCTION: Final = "wasmfn/function"
"""Of a pod that holds one function natively: which one."""
LABEL_REVISION: Final = "wasmfn/revision"
"""The same: which revision of it."""
LABEL_PORT: Final = "wasmfn/port"
"""The same: where it answers."""

CONTROL_PORT: Final = 10087
"""Where a keeper takes control calls in a cluster; a local pod says its own."""
KEEPER_CONTAINER: Final = "keeper"
"""The container of a pod in a cluster that holds the keeper: podwatch goes by it."""
FUNCTION_CONTAINER: Final = "function"
"""The same, of a pod that holds one function natively."""
CONTAINERS: Final = {ROLE_KEEPER: KEEPER_CONTAINER, ROLE_FUNCTION: FUNCTION_CONTAINER}
"""The container that counts, by the pod's role."""


class PodFact(msgspec.Struct, frozen=True):
    """What is known about one pod. The last fact per uid stands."""

    uid: str
    node: str
    name: str
    phase: PodPhase
    time: datetime
    ip: str = ""
    port: int = CONTROL_PORT
    """The control port of a keeper, or where a function's own image answers."""
    ready: bool = False
    """It answered a probe from its node; of a function's own image, its port took a connection."""
    boot: str = ""
    """The keeper's boot nonce, read by the probe; control calls are bound to it."""
    engine: str = ""
    """The keeper's engine hash, read by the probe."""
    capacity: int = 0
    """How many function processes it can hold, read by the probe."""
    labels: dict[str, str] = {}
    started_at: datetime | None = None
    reason: str = ""
    """Why it is dead, in words."""


class LocalPod(msgspec.Struct, frozen=True):
    """`pod.json` of a local pod: what the runtime `processes` writes and podwatch reads.

    A process is identified by pid *and* start time, since pids are reused.
    """

    uid: str
    name: str
    labels: dict[str, str]
    pid: int
    start_ticks: int
    """Field 22 of /proc/<pid>/stat."""
    ip: str
    port: int
    created_at: datetime
