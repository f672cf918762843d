"""Pods of this node as the API server tells of them.

For nodes whose container runtime may not be asked. It tells later than the
runtime does, for a kubelet reports in its own time. Everything is listed, then
watched from there on. When the watch breaks off, also because the server has
forgotten where it was (410), everything is listed again: only a list that was
answered tells what is gone.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Mapping
from datetime import datetime
from typing import Any, Final, cast

import aiohttp
import msgspec
from kubernetes_asyncio import config
from kubernetes_asyncio.client import ApiClient, Configuration, CoreV1Api

from schemas.pods import CONTAINERS, LABEL_ROLE
from services.podwatch.sources import PodGone, PodSeen, Sighting, Snapshot
from services.podwatch.sources.sandboxes import RESTARTED, ended, port

log = logging.getLogger(__name__)

REMOVED: Final = "it was deleted"
LOGS: Final = "/var/log/pods"
"""Where every kubelet has its containers' logs."""

_WATCH_S: Final = 60
"""How long to watch before everything is listed again."""
_ANSWER_S: Final = 15.0
_RETRY_S: Final = 0.2
_RETRY_MAX_S: Final = 5.0
_MAX_EVENT_BYTES: Final = 4 * 1024 * 1024


class ApiTrouble(Exception):  # noqa: N818 - it is the cluster's
    """The API server cannot be reached, or refuses."""


class KubernetesSource:
    """Follows the keepers that are on one node. See `PodSource`."""

    def __init__(self, node: str, namespace: str, kubeconfig: str = "") -> None:
        self._node = node
        self._namespace = namespace
        self._kubeconfig = kubeconfig
        self._complaint = ""

    async def follow(self) -> AsyncGenerator[Sighting, None]:
        """Yield a snapshot, then changes. See `PodSource.follow`."""
        retry_s = _RETRY_S
        while True:
            try:
                async with contextlib.aclosing(self._follow()) as sightings:
                    async for sighting in sightings:
                        retry_s = _RETRY_S
                        self._complaint = ""
                        yield sighting
            except (
                ApiTrouble,
                OSError,
                aiohttp.ClientError,
                msgspec.DecodeError,
                config.ConfigException,
            ) as error:
                # TimeoutError is an OSError.
                self._complain(str(error) or type(error).__name__)
            await asyncio.sleep(retry_s)
            retry_s = min(retry_s * 2, _RETRY_MAX_S)

    async def _follow(self) -> AsyncGenerator[Sighting, None]:
        """Yield from one client, for as long as it is of use.

        Raises:
            ApiTrouble, OSError, ConfigException, ClientError: it is of no use any more.
        """
        configuration = Configuration()
        if self._kubeconfig:
            await config.load_kube_config(self._kubeconfig, client_configuration=configuration)
        else:
            config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
        async with ApiClient(configuration) as client:
            pods = CoreV1Api(client)
            while True:
                version, listed = await self._list(pods)
                running: dict[str, PodSeen] = {}
                for pod in listed:
                    for sighting in look(pod, running):
                        yield sighting
                yield Snapshot(tuple(running.values()))
                async with contextlib.aclosing(self._watch(pods, version)) as events:
                    async for what, pod in events:
                        if what == "DELETED":
                            if running.pop(pod["metadata"]["uid"], None) is not None:
                                yield PodGone(pod["metadata"]["uid"], REMOVED)
                        else:
                            for sighting in look(pod, running):
                                yield sighting

    async def _list(self, pods: CoreV1Api) -> tuple[str, list["Pod"]]:
        """Return the version of the list, and the keepers of this node."""
        async with asyncio.timeout(_ANSWER_S), await self._ask(pods) as answer:
            found = msgspec.json.decode(await answer.read())
        return found["metadata"]["resourceVersion"], found["items"]

    async def _watch(
        self, pods: CoreV1Api, version: str
    ) -> AsyncGenerator[tuple[str, "Pod"], None]:
        """Yield what happens after `version`, until it is time to list again."""
        async with asyncio.timeout(_ANSWER_S):
            answer = await self._ask(
                pods, watch=True, resource_version=version, timeout_seconds=_WATCH_S
            )
        async with answer:
            rest = b""
            # The server ends it in time; if it does not, it is not there any more.
            ends = asyncio.get_running_loop().time() + _WATCH_S + _ANSWER_S
            while True:
                async with asyncio.timeout_at(ends):
                    data = await answer.content.readany()
                if not data:
                    return
                *lines, rest = (rest + data).split(b"\n")
                if len(rest) > _MAX_EVENT_BYTES:
                    raise ApiTrouble(f"an event is longer than {_MAX_EVENT_BYTES} bytes")
                for line in lines:
                    event = msgspec.json.decode(line)
                    if event["type"] == "ERROR":
                        # Such as a version that the server has forgotten: list again.
                        log.info("the watch ended: %s", event["object"].get("message"))
                        return
                    yield event["type"], event["object"]

    async def _ask(self, pods: CoreV1Api, **more: Any) -> aiohttp.ClientResponse:
        """Return the answer to a list or a watch, its body unread."""
        answer: Any = await pods.list_namespaced_pod(
            self._namespace,
            field_selector=f"spec.nodeName={self._node}",
            label_selector=f"{LABEL_ROLE} in ({','.join(CONTAINERS)})",
            _preload_content=False,
            **more,
        )
        if answer.status != 200:
            async with answer:
                said = (await answer.read())[:500].decode("utf-8", "replace")
            raise ApiTrouble(f"the API server answers {answer.status}: {said}")
        # Without preloading it is the response itself, whatever the method's type says.
        return cast("aiohttp.ClientResponse", answer)

    def _complain(self, text: str) -> None:
        """Log why nothing can be told, once."""
        if text != self._complaint:
            self._complaint = text
            log.warning("cannot follow the pods of %s: %s", self._node, text)


Pod = Mapping[str, Any]
"""A pod as it stands in the API's JSON."""


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
