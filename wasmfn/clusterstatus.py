"""What a cluster's own words about the platform mean: pure functions over what `kubectl get` tells.

A pod that does not come up is said with its reason, because that is what its
operator would have to look for next.
"""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from schemas.pods import LABEL_NAMESPACE

Object = dict[str, Any]

_PART: Final = "app.kubernetes.io/name"
_USUAL: Final = ("ContainerCreating", "PodInitializing")


class Part(msgspec.Struct, frozen=True):
    """One workload of the platform."""

    name: str
    ready: int
    wanted: int
    restarts: int
    image: str

    @property
    def whole(self) -> bool:
        """Whether all of its pods are ready."""
        return self.ready >= self.wanted > 0


class Keeper(msgspec.Struct, frozen=True):
    """One pod that holds functions, as Kubernetes sees it."""

    name: str
    tenant: str
    node: str
    ip: str
    phase: str
    ready: bool


def parts(workloads: Iterable[Object], pods: Iterable[Object]) -> list[Part]:
    """Return the platform's workloads, by name. Both are items of `kubectl get`."""
    restarts: dict[str, int] = {}
    for pod in pods:
        name = pod["metadata"].get("labels", {}).get(_PART, "")
        restarts[name] = restarts.get(name, 0) + sum(c["restartCount"] for c in _states(pod))
    found = []
    for workload in workloads:
        name = workload["metadata"]["name"]
        status = workload.get("status", {})
        if workload["kind"] == "DaemonSet":
            ready, wanted = status.get("numberReady", 0), status.get("desiredNumberScheduled", 0)
        else:
            ready, wanted = status.get("readyReplicas", 0), workload["spec"].get("replicas", 1)
        image = workload["spec"]["template"]["spec"]["containers"][0]["image"]
        found.append(Part(name, ready, wanted, restarts.get(name, 0), image))
    return sorted(found, key=lambda part: part.name)


def keepers(pods: Iterable[Object]) -> list[Keeper]:
    """Return the pods that hold functions, by tenant and name."""
    found = [
        Keeper(
            name=pod["metadata"]["name"],
            tenant=pod["metadata"].get("labels", {}).get(LABEL_NAMESPACE, "-"),
            node=pod["spec"].get("nodeName", "-"),
            ip=pod.get("status", {}).get("podIP", "-"),
            phase=pod.get("status", {}).get("phase", "Unknown"),
            ready=_is_ready(pod),
        )
        for pod in pods
    ]
    return sorted(found, key=lambda keeper: (keeper.tenant, keeper.name))


def troubles(pods: Iterable[Object]) -> list[str]:
    """Return a sentence for each pod that is not ready for a reason that is no passing one."""
    said: list[str] = []
    for pod in pods:
        if _is_ready(pod) or pod.get("status", {}).get("phase") == "Succeeded":
            continue
        said += [f"{pod['metadata']['name']}: {reason}" for reason in _reasons(pod)]
    return said


def _reasons(pod: Object) -> Iterable[str]:
    for condition in pod.get("status", {}).get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] != "True":
            yield f"no node takes it: {condition.get('message', condition.get('reason', ''))}"
    for container in _states(pod):
        state = container.get("state", {})
        if waiting := state.get("waiting"):
            last = container.get("lastState", {}).get("terminated", {})
            if waiting.get("reason") in _USUAL:
                continue
            ended = f" (it ended with {last['exitCode']})" if "exitCode" in last else ""
            message = waiting.get("message", "")
            yield f"{waiting.get('reason', 'waiting')}{ended}{message and ': ' + message}"
        elif ended := state.get("terminated"):
            yield f"ended with {ended.get('exitCode')}: {ended.get('reason', '')}"
        elif not container.get("ready"):
            yield "runs, and is not ready; `kubectl logs` tells why"


def _states(pod: Object) -> list[Object]:
    status = pod.get("status", {})
    states: list[Object] = [
        *status.get("initContainerStatuses", []),
        *status.get("containerStatuses", []),
    ]
    return states


def _is_ready(pod: Object) -> bool:
    return any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in pod.get("status", {}).get("conditions", [])
    )
