"""Keepers as pods of a Kubernetes cluster.

Plain pods and not a Deployment: which one goes is the scheduler's decision, for
it knows which are empty, and a keeper that ended is never started again under
the same identity. What is kept here is only which name a uid has; everything
else is asked of the API server, so the next scheduler adopts what runs by its
labels, and one that was away for an hour is as good as one that was not.
"""

import asyncio
import contextlib
import logging
import math
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeVar

import msgspec

from schemas.pods import LABEL_NAMESPACE, LABEL_ROLE, ROLE_KEEPER
from services.kubernetes.api import ApiError
from services.kubernetes.informer import Changed, Listed, Removed, follow
from services.scheduler.pods import Pod, PodError
from services.scheduler.pods.apiserver import ApiServer
from services.scheduler.pods.manifest import TEMPLATE, KeeperPod, keeper_pod, template
from services.scheduler.pods.objects import (
    ApiPod,
    PodList,
    has_ended,
    hindrance,
    serves,
    waits_for,
)

log = logging.getLogger(__name__)

SELECTOR: Final = f"{LABEL_ROLE}={ROLE_KEEPER}"
FORGET_S: Final = 60.0
"""How long a pod whose keeper has ended stays, so that its log can be read."""

_START_S: Final = 10.0
"""How long to try to have a pod made while the API server does not answer."""
_REPORT_S: Final = 10.0
"""How much later than its grace allows a pod may be told to have ended."""
_FIRST_PAUSE_S: Final = 0.1
_LAST_PAUSE_S: Final = 2.0

T = TypeVar("T")


class _Known(msgspec.Struct, frozen=True):
    """A pod that was running when last heard of."""

    name: str
    since: float
    """When it became known (monotonic)."""


class KubernetesRuntime:
    """Runs keepers as pods. See `PodRuntime`."""

    def __init__(self, server: ApiServer, image: str, capacity: int, settings: KeeperPod) -> None:
        self._server = server
        self._image = image
        self._capacity = capacity
        self._settings = settings
        self._template = template(image, capacity, settings)
        self._owner = ""
        """Uid of the keepers' account, or nothing while it is not known."""
        self._known: dict[str, _Known] = {}
        """By uid, what was running when last heard of."""
        self._gone: set[str] = set()
        """Uids that were told to have ended, for as long as a list may still have them."""
        self._ended_at: dict[str, float] = {}
        """Uid -> when it was first seen to have ended (monotonic)."""

    async def list(self) -> list[Pod]:
        """Return the pods that run or are about to. See `PodRuntime`."""
        try:
            found = await self._server.list(label_selector=SELECTOR)
        except ApiError as error:
            raise PodError(f"the keepers cannot be listed: {error}") from error
        # One may have ended since this list was read: once ended it stays so.
        self._gone &= {pod.metadata.uid for pod in found.items}
        running = [pod for pod in found.items if self._learn(pod)]
        await self._clean(found)
        await self._find_owner()
        return [self._plain(pod) for pod in running]

    async def start(self, labels: dict[str, str]) -> Pod:
        """Make a keeper pod. See `PodRuntime`."""
        # The name is new, and the pod is applied: to ask again, when an answer was lost, makes
        # no second one.
        name = f"keeper-{labels[LABEL_NAMESPACE]}"[:52].rstrip("-") + f"-{secrets.token_hex(5)}"
        manifest = keeper_pod(
            name, self._image, labels, self._capacity, self._settings, self._owner
        )
        try:
            pod = await _persist(lambda: self._server.apply(manifest), _START_S)
        except ApiError as error:
            raise PodError(f"a keeper could not be started: {error}") from error
        self._learn(pod)
        return self._plain(pod)

    async def stop(self, uid: str, patience_s: float) -> None:
        """Delete a pod, and have it forgotten if it does not end in time. See `PodRuntime`."""
        known = self._known.get(uid)
        if known is None:
            return
        name = known.name
        grace_s = max(1, math.ceil(patience_s))
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s + _REPORT_S):
                    await self._delete(name, uid, grace_s)
                    await self._until_ended(name, uid)
                    return
            # Its node does not answer. What may still run there has no endpoint any more, and is
            # ended by the node itself when it is back.
            log.warning("the keeper %s does not end in time; it is deleted by force", name)
            await self._delete(name, uid, 0)
        except ApiError as error:
            raise PodError(f"the keeper {name} may still run: {error}") from error

    async def ended(self) -> AsyncIterator[str]:
        """Yield the uid of each pod that ended or was told to. See `PodRuntime`."""
        hindrances: dict[str, str] = {}
        async with contextlib.aclosing(follow(self._server, label_selector=SELECTOR)) as sightings:
            async for sighting in sightings:
                match sighting:
                    case Listed(pods, asked):
                        serving = {pod.metadata.uid for pod in pods if self._learn(pod)}
                        gone = [
                            uid
                            for uid, known in self._known.items()
                            if uid not in serving and known.since < asked
                        ]
                    case Changed(pod) if self._learn(pod):
                        _tell_hindrance(pod, hindrances)
                        gone = []
                    case Changed(pod) | Removed(pod):
                        gone = [pod.metadata.uid]
                for uid in gone:
                    hindrances.pop(uid, None)
                    if self._known.pop(uid, None) is not None:
                        self._gone.add(uid)
                        yield uid

    def _learn(self, pod: ApiPod) -> bool:
        """Remember a pod that serves, or is about to; return whether it does."""
        uid = pod.metadata.uid
        if not serves(pod) or uid in self._gone:
            return False
        self._known.setdefault(uid, _Known(pod.metadata.name, time.monotonic()))
        return True

    def _plain(self, pod: ApiPod) -> Pod:
        metadata = pod.metadata
        outdated = metadata.annotations.get(TEMPLATE) != self._template
        return Pod(metadata.uid, metadata.name, metadata.labels, waits_for(pod), outdated)

    async def _find_owner(self) -> None:
        """Learn the uid of the keepers' account, each time anew: an account may be made again."""
        try:
            self._owner = await self._server.account_uid(self._settings.service_account)
        except ApiError as error:
            if not error.passing:
                # Keepers without an owner are as good, but for whoever drains their node.
                self._owner = ""
                log.info("keepers are made without an owner: %s", error)

    async def _delete(self, name: str, uid: str, grace_s: int) -> None:
        await _persist(lambda: self._server.delete(name, uid, grace_s), _START_S)

    async def _until_ended(self, name: str, uid: str) -> None:
        """Return when the pod has ended or is gone."""
        one = follow(self._server, field_selector=f"metadata.name={name}")
        async with contextlib.aclosing(one) as sightings:
            async for sighting in sightings:
                match sighting:
                    case Listed(pods):
                        runs = any(p.metadata.uid == uid and not has_ended(p) for p in pods)
                    case Changed(pod):
                        runs = not has_ended(pod)
                    case Removed():
                        runs = False
                if not runs:
                    return

    async def _clean(self, found: PodList) -> None:
        """Delete pods whose keeper has ended a while ago: nobody else does."""
        now = time.monotonic()
        ended = {
            pod.metadata.uid: pod.metadata.name
            for pod in found.items
            if has_ended(pod) and pod.metadata.deletion_timestamp is None
        }
        self._ended_at = {uid: self._ended_at.get(uid, now) for uid in ended}
        for uid, since in self._ended_at.items():
            if now - since >= FORGET_S:
                try:
                    await self._server.delete(ended[uid], uid, 0)
                except ApiError as error:
                    log.info("the ended keeper %s stays for now: %s", ended[uid], error)
                    return


async def _persist(call: Callable[[], Awaitable[T]], within_s: float) -> T:
    """Make a call that does no harm when it is repeated until it is answered.

    Raises:
        ApiError: it was refused, or was not answered within `within_s`.
    """
    ends, pause_s = time.monotonic() + within_s, _FIRST_PAUSE_S
    while True:
        try:
            return await call()
        except ApiError as error:
            if not error.passing or time.monotonic() + pause_s > ends:
                raise
            log.info("trying again: %s", error)
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, _LAST_PAUSE_S)


def _tell_hindrance(pod: ApiPod, told: dict[str, str]) -> None:
    """Log why a pod does not start, once for each reason."""
    why = hindrance(pod)
    if why and told.get(pod.metadata.uid) != why:
        log.warning("the keeper %s does not start: %s", pod.metadata.name, why)
    told[pod.metadata.uid] = why
