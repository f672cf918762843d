"""What a container runtime says of a pod, and what follows from it.

Pure. A pod in a container runtime is a sandbox, which has the address and the
labels, and containers in it. A pod of ours runs while its sandbox is ready and
its container runs: not before, for nothing could answer, and not after, for the
end of the first container is the end of the pod. A keeper is not started again
(`restartPolicy: Never`); the pods of a Deployment are, by their kubelet, and are
dead all the same until the scheduler has them replaced: what a uid was told of
stays true. What becomes of a sandbox before a container started in it says
nothing: a kubelet tries another one under the same uid.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, Literal

import msgspec

from schemas.pods import CONTAINERS, CONTROL_PORT, LABEL_PORT, LABEL_ROLE, ROLE_KEEPER
from services.podwatch.sources import PodSeen

KUBELET_LABELS: Final = "io.kubernetes."
"""What labels that a kubelet adds to those of the pod begin with."""
RESTARTED: Final = "its container ended and was started again"


class Sandbox(msgspec.Struct, frozen=True):
    """A pod's sandbox."""

    id: str
    uid: str
    name: str
    labels: dict[str, str]
    ready: bool
    ip: str = ""


class Container(msgspec.Struct, frozen=True):
    """The container that counts of a pod of ours."""

    id: str
    state: Literal["created", "running", "exited"]
    started_at: datetime | None = None
    log: str = ""
    exit_code: int = 0
    reason: str = ""
    """The runtime's own word for its end, such as `OOMKilled`."""
    attempt: int = 0
    """How many have ended in its place before."""


def is_ours(sandbox: Sandbox) -> bool:
    """Whether it belongs to a pod of this platform."""
    return sandbox.labels.get(LABEL_ROLE) in CONTAINERS


def seen(sandbox: Sandbox, container: Container) -> PodSeen:
    """Return the pod that these two are, or were."""
    return PodSeen(
        uid=sandbox.uid,
        name=sandbox.name,
        labels={k: v for k, v in sandbox.labels.items() if not k.startswith(KUBELET_LABELS)},
        ip=sandbox.ip,
        port=port(sandbox.labels),
        started_at=container.started_at,
        log=container.log,
        log_format="cri",
    )


def ending(sandbox: Sandbox, container: Container) -> str:
    """Return why the pod does not run any more, in words, or nothing if it does or will."""
    role = sandbox.labels.get(LABEL_ROLE, "")
    if container.state == "exited":
        return ended(role, container.exit_code, container.reason)
    if container.attempt:
        return RESTARTED
    if container.state == "running" and not sandbox.ready:
        return "its sandbox ended"
    return ""


def ended(role: str, exit_code: int, reason: str) -> str:
    """Return in words how the container of a pod with this role ended."""
    what = "keeper" if role == ROLE_KEEPER else "container"
    why = f" ({reason})" if reason and reason not in ("Completed", "Error") else ""
    return f"its {what} ended with exit code {exit_code}{why}"


def port(labels: Mapping[str, str]) -> int:
    """Return where a pod is probed: where its function answers, or its keeper's control port."""
    told = labels.get(LABEL_PORT, "")
    return int(told) if told.isdecimal() else CONTROL_PORT
