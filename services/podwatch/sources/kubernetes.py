"""Pods of this node as the API server tells of them.

For nodes whose container runtime may not be asked. It tells later than the
runtime does, for a kubelet reports in its own time. Everything is listed, then
watched from there on. When the watch breaks off, also because the server has
forgotten where it was (410), everything is listed again: only a list that was
answered tells what is gone.
"""

import contextlib
from collections.abc import AsyncGenerator, Mapping
from datetime import datetime
from typing import Any, Final, Literal

import msgspec
from kubernetes_asyncio.client import ApiClient, CoreV1Api

from schemas.pods import CONTAINERS, LABEL_ROLE
from services.kubernetes.api import ApiError, login, watch, whole_list
from services.kubernetes.informer import Changed, Listed, Removed, follow
from services.kubernetes.objects import ListMetadata, WatchEvent
from services.podwatch.sources import PodGone, PodSeen, Sighting, Snapshot
from services.podwatch.sources.sandboxes import RESTARTED, ended, port

REMOVED: Final = "it was deleted"
LOGS: Final = "/var/log/pods"
"""Where every kubelet has its containers' logs."""

Pod = Mapping[str, Any]
"""A pod as it stands in the API's JSON."""


class _PodList(msgspec.Struct, frozen=True):
    """All pods that were asked for. Whatever else is answered is no list."""

    kind: Literal["PodList"]
    metadata: ListMetadata
    items: list[dict[str, Any]]


class KubernetesSource:
    """Follows the keepers that are on one node. See `PodSource`."""

    def __init__(self, node: str, namespace: str, kubeconfig: str = "") -> None:
        self._node = node
        self._namespace = namespace
        self._kubeconfig = kubeconfig

    async def follow(self) -> AsyncGenerator[Sighting, None]:
        """Yield a snapshot, then changes. See `PodSource.follow`."""
        running: dict[str, PodSeen] = {}
        pods = _Pods(self._node, self._namespace, self._kubeconfig)
        news = follow(
            pods,
            field_selector=f"spec.nodeName={self._node}",
            label_selector=f"{LABEL_ROLE} in ({','.join(CONTAINERS)})",
        )
        async with contextlib.AsyncExitStack() as ending:
            ending.push_async_callback(pods.close)
            await ending.enter_async_context(contextlib.aclosing(news))
            async for one in news:
                match one:
                    case Listed(listed):
                        running = {}
                        for pod in listed:
                            for sighting in look(pod, running):
                                yield sighting
                        yield Snapshot(tuple(running.values()))
                    case Removed(pod):
                        if running.pop(pod["metadata"]["uid"], None) is not None:
                            yield PodGone(pod["metadata"]["uid"], REMOVED)
                    case Changed(pod):
                        for sighting in look(pod, running):
                            yield sighting


class _Pods:
    """The pods of one namespace, asked for over a connection that is made anew after trouble."""

    kind = dict[str, Any]

    def __init__(self, node: str, namespace: str, kubeconfig: str) -> None:
        self.what = f"the pods of {node}"
        self._namespace = namespace
        self._kubeconfig = kubeconfig
        self._client: ApiClient | None = None

    async def list(self, **selectors: str) -> _PodList:
        """Return all pods. Raises ApiError, LoginError."""
        # What tells how to log in may have changed as well.
        if self._client is None:
            self._client = await login(self._kubeconfig)
        try:
            return await whole_list(self._call(), _PodList, self._namespace, **selectors)
        except ApiError:
            await self.close()
            raise

    def watch(self, version: str, **selectors: str) -> AsyncGenerator[WatchEvent, None]:
        """Yield what happened after `version`. Raises ApiError."""
        return watch(self._call(), version, self._namespace, **selectors)

    async def close(self) -> None:
        """Let go of the connection, if there is one."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _call(self) -> Any:
        assert self._client is not None  # noqa: S101 - what is watched was listed before
        return CoreV1Api(self._client).list_namespaced_pod


def look(pod: Pod, running: dict[str, PodSeen]) -> list[Sighting]:
    """Return what is new of a pod, given what was told to be running, which is brought up to date.

    A pod runs while its keeper's container does. A keeper that ended is not
    started again in its pod (`restartPolicy: Never`).
    """
    uid = pod["metadata"]["uid"]
    seen = as_seen(pod)
    why = ending(pod)
    sightings: list[Sighting] = []
    if seen is not None and seen != running.get(uid) and not (why and uid in running):
        running[uid] = seen
        sightings.append(seen)
    if why and running.pop(uid, None) is not None:
        sightings.append(PodGone(uid, why))
    return sightings


def as_seen(pod: Pod) -> PodSeen | None:
    """Return the pod as one that runs, or ran; None if its keeper has not started yet."""
    metadata, status = pod["metadata"], pod.get("status", {})
    container = _container(pod)
    state = container.get("state", {})
    started = (state.get("running") or state.get("terminated") or {}).get("startedAt")
    if started is None:
        return None
    directory = f"{LOGS}/{metadata['namespace']}_{metadata['name']}_{metadata['uid']}"
    labels = dict(metadata.get("labels") or {})
    return PodSeen(
        uid=metadata["uid"],
        name=metadata["name"],
        labels=labels,
        ip=status.get("podIP", ""),
        port=port(labels),
        started_at=datetime.fromisoformat(started),
        log=f"{directory}/{container['name']}/{container.get('restartCount', 0)}.log",
        log_format="cri",
    )


def ending(pod: Pod) -> str:
    """Return why the pod does not run any more, in words, or nothing if it does or will."""
    container, state = _container(pod), _container(pod).get("state", {})
    if (terminated := state.get("terminated")) is not None:
        code, reason = terminated.get("exitCode", 0), terminated.get("reason", "")
        return ended(_role(pod), code, reason)
    if container.get("restartCount", 0) and "running" in state:
        return RESTARTED
    status = pod.get("status", {})
    if status.get("phase") in ("Failed", "Succeeded"):
        return status.get("message") or status.get("reason") or f"it has {status['phase'].lower()}"
    return ""


def _role(pod: Pod) -> str:
    return str((pod["metadata"].get("labels") or {}).get(LABEL_ROLE, ""))


def _container(pod: Pod) -> Mapping[str, Any]:
    """Return the status of the container that counts; nothing if there is none yet."""
    for container in pod.get("status", {}).get("containerStatuses") or ():
        if container["name"] == CONTAINERS.get(_role(pod)):
            return dict(container)
    return {}
