"""What a container runtime says of a pod, and what follows from it.

Pure. A pod in a container runtime is a sandbox, which has the address and the
labels, and containers in it. A pod of ours runs while its sandbox is ready and
its keeper's container runs: not before, for nothing could answer, and not
after, for a keeper's end is the end of its pod (`restartPolicy: Never`). What
becomes of a sandbox before a keeper started in it says nothing: a kubelet tries
another one under the same uid.
"""

from datetime import datetime
from typing import Final, Literal

import msgspec

from schemas.pods import CONTROL_PORT, LABEL_ROLE, ROLE_KEEPER
from services.podwatch.sources import PodSeen

KUBELET_LABELS: Final = "io.kubernetes."
"""What labels that a kubelet adds to those of the pod begin with."""


class Sandbox(msgspec.Struct, frozen=True):
    """A pod's sandbox."""

    id: str
    uid: str
    name: str
    labels: dict[str, str]
    ready: bool
    ip: str = ""


class Container(msgspec.Struct, frozen=True):
    """The container of a keeper."""

    id: str
    state: Literal["created", "running", "exited"]
    started_at: datetime | None = None
    log: str = ""
    exit_code: int = 0
    reason: str = ""
    """The runtime's own word for its end, such as `OOMKilled`."""


def is_ours(sandbox: Sandbox) -> bool:
    """Whether it belongs to a keeper of this platform."""
    return sandbox.labels.get(LABEL_ROLE) == ROLE_KEEPER


def seen(sandbox: Sandbox, container: Container) -> PodSeen:
    """Return the pod that these two are, or were."""
    return PodSeen(
        uid=sandbox.uid,
        name=sandbox.name,
        labels={k: v for k, v in sandbox.labels.items() if not k.startswith(KUBELET_LABELS)},
        ip=sandbox.ip,
        port=CONTROL_PORT,
        started_at=container.started_at,
        log=container.log,
        log_format="cri",
    )


def ending(sandbox: Sandbox, container: Container) -> str:
    """Return why the pod does not run any more, in words, or nothing if it does or will."""
    if container.state == "exited":
        return ended(container.exit_code, container.reason)
    if container.state == "running" and not sandbox.ready:
        return "its sandbox ended"
    return ""


def ended(exit_code: int, reason: str) -> str:
    """Return in words how a keeper's container ended."""
    why = f" ({reason})" if reason and reason not in ("Completed", "Error") else ""
    return f"its keeper ended with exit code {exit_code}{why}"
