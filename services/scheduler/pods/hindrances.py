"""Say why a native does not run, in words for the author of its function.

Pure. A kubelet's reasons are many; what matters is whether waiting helps, and
what to do. The words of a container that ended are its own last ones, which the
API server has from its log (`terminationMessagePolicy`).
"""

from typing import Final

import msgspec

from schemas.pods import FUNCTION_CONTAINER
from services.scheduler.pods.objects import ApiDeployment, ApiPod, Container, Reason

_LAST_WORDS: Final = 400
"""Characters of a log that are worth repeating."""

_IMAGE: Final = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "InvalidImageName",
        "ImageInspectError",
        "RegistryUnavailable",
    }
)
_CONTAINER: Final = frozenset({"CreateContainerError", "RunContainerError"})


class Hindrance(msgspec.Struct, frozen=True):
    """What is in the way."""

    sentence: str = ""
    """Empty: nothing."""
    lasting: bool = False
    """It does not mend itself, or not soon."""


def of_pod(pod: ApiPod) -> Hindrance:
    """Return what keeps a pod from running."""
    for container in pod.status.container_statuses:
        if container.name == FUNCTION_CONTAINER:
            found = _of_container(container)
            if found.sentence:
                return found
    for condition in pod.status.conditions:
        if (condition.type, condition.status) == ("PodScheduled", "False"):
            return Hindrance(
                f"no node takes it: {condition.message or condition.reason};"
                " add a node that can, or ask for less"
            )
    if pod.status.phase in ("Failed", "Succeeded"):
        return Hindrance("its pod was ended by its node", lasting=True)
    return Hindrance()


def of_deployment(deployment: ApiDeployment) -> str:
    """Return why a Deployment can make no pods, or nothing."""
    for condition in deployment.status.conditions:
        if (condition.type, condition.status) != ("ReplicaFailure", "True"):
            continue
        said = condition.message or condition.reason
        if "RuntimeClass" in said and "not found" in said:
            advice = "name one that `kubectl get runtimeclass` lists, or make it"
        elif "quota" in said:
            advice = "raise the quota, or ask for less"
        else:
            advice = "change what it says, in the function or in the cluster"
        return f"the cluster makes no pod of it: {said}; {advice}"
    return ""


def _of_container(container: Container) -> Hindrance:
    ended = container.state.terminated or container.last_state.terminated
    if ended is not None:
        return Hindrance(_ended(ended), lasting=True)
    waiting = container.state.waiting
    if waiting is None or waiting.reason in ("", "ContainerCreating", "PodInitializing"):
        return Hindrance()
    said = waiting.message or waiting.reason
    if waiting.reason in _IMAGE:
        return Hindrance(
            f"its image cannot be had: {said}; correct `image`, or let the nodes pull it",
            lasting=True,
        )
    if waiting.reason == "CreateContainerConfigError":
        return Hindrance(
            f"its container cannot be made: {said}; a secret NAME/KEY is the key KEY of the"
            " Kubernetes Secret <namespace>.NAME beside the function's pods",
            lasting=True,
        )
    if waiting.reason in _CONTAINER:
        return Hindrance(
            f"its container cannot be started: {said}; check `container.command`, and that its"
            " runtime can run such an image",
            lasting=True,
        )
    return Hindrance(f"{waiting.reason}: {said}")


def _ended(ended: Reason) -> str:
    why = f" ({ended.reason})" if ended.reason not in ("", "Completed", "Error") else ""
    words = " ".join(ended.message.split())
    if len(words) > _LAST_WORDS:
        words = "…" + words[-_LAST_WORDS:]
    said = f"; its last words: {words}" if words else "; it said nothing"
    advice = "raise `limits.memory_mib`" if ended.reason == "OOMKilled" else "it has to serve"
    return f"its container ended with exit code {ended.exit_code}{why}: {advice}{said}"
