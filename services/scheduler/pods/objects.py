"""The little of a pod's JSON in the Kubernetes API that the scheduler goes by.

Pure. What is not read here may be there or not, and may change its type with
the next version of Kubernetes.
"""

from typing import Literal

import msgspec

from schemas.pods import KEEPER_CONTAINER
from services.kubernetes.objects import ListMetadata


class Metadata(msgspec.Struct, frozen=True, rename="camel"):
    """Which pod it is."""

    name: str
    uid: str
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    deletion_timestamp: str | None = None
    """It was told to end, and by when it has to."""


class Reason(msgspec.Struct, frozen=True, rename="camel"):
    """Why a container waits, or has ended."""

    reason: str = ""
    message: str = ""
    exit_code: int = 0


class State(msgspec.Struct, frozen=True):
    """One of the two, or neither when the container runs."""

    waiting: Reason | None = None
    terminated: Reason | None = None


class Container(msgspec.Struct, frozen=True, rename="camel"):
    """What became of one container."""

    name: str
    state: State = State()
    last_state: State = State()
    """How the one before it ended, if it was started again."""


class Condition(msgspec.Struct, frozen=True):
    """Something that is so, or is not, or is not known."""

    type: str
    status: str
    reason: str = ""
    message: str = ""


class Status(msgspec.Struct, frozen=True, rename="camel"):
    """What the cluster says of a pod."""

    phase: str = ""
    container_statuses: list[Container] = []
    conditions: list[Condition] = []


class ApiPod(msgspec.Struct, frozen=True):
    """A pod as the API server tells it."""

    metadata: Metadata
    status: Status = Status()


class ServiceAccount(msgspec.Struct, frozen=True):
    """The account that keepers run as."""

    metadata: Metadata


class PodList(msgspec.Struct, frozen=True):
    """All pods that were asked for. Whatever else is answered is no list."""

    kind: Literal["PodList"]
    metadata: ListMetadata
    items: list[ApiPod]


class DeploymentSpec(msgspec.Struct, frozen=True):
    """How many pods it is to have."""

    replicas: int = 1


class DeploymentStatus(msgspec.Struct, frozen=True):
    """What the cluster says of a Deployment."""

    conditions: list[Condition] = []


class ApiDeployment(msgspec.Struct, frozen=True):
    """A Deployment as the API server tells it."""

    metadata: Metadata
    spec: DeploymentSpec = DeploymentSpec()
    status: DeploymentStatus = DeploymentStatus()


class DeploymentList(msgspec.Struct, frozen=True):
    """All Deployments that were asked for. Whatever else is answered is no list."""

    kind: Literal["DeploymentList"]
    metadata: ListMetadata
    items: list[ApiDeployment]


def has_ended(pod: ApiPod) -> bool:
    """Whether its keeper runs no more. It is not started again in its pod."""
    return pod.status.phase in ("Failed", "Succeeded") or any(
        container.name == KEEPER_CONTAINER and container.state.terminated is not None
        for container in pod.status.container_statuses
    )


def serves(pod: ApiPod) -> bool:
    """Whether it runs, or is going to, and nobody has told it to end.

    A pod that was told to end, as when its node is drained, answers what it has
    begun and takes nothing new. On a node that does not answer any more it may
    never end, as far as the API server knows.
    """
    return pod.metadata.deletion_timestamp is None and not has_ended(pod)


def waits_for(pod: ApiPod) -> str:
    """Return what it waits for before its keeper can run, in words, or nothing if it runs."""
    if pod.status.phase not in ("", "Pending"):
        return ""
    return hindrance(pod) or "its node gets it ready: its image may have to be pulled"


def hindrance(pod: ApiPod) -> str:
    """Return why it does not start, in words, or nothing if nothing is in its way."""
    for container in pod.status.container_statuses:
        waiting = container.state.waiting
        if waiting is not None and waiting.reason not in ("", "ContainerCreating"):
            return f"{waiting.reason}: {waiting.message}" if waiting.message else waiting.reason
    for condition in pod.status.conditions:
        if (condition.type, condition.status) == ("PodScheduled", "False"):
            return f"no node takes it: {condition.message or condition.reason}"
    return ""
