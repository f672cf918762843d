"""Functions with images of their own as Deployments of a Kubernetes cluster.

A thin layer over the API server: what runs is asked for, never remembered, so
the next scheduler goes on with what it finds. See `native` for the seam.
"""

import contextlib
import logging
import time
from collections.abc import AsyncGenerator
from typing import Final

from schemas.active import ActiveFunction
from schemas.pods import LABEL_ROLE, ROLE_FUNCTION
from services.kubernetes.api import ApiError
from services.kubernetes.informer import Changed, Listed, Removed, follow
from services.scheduler.pods import PodError
from services.scheduler.pods.apiserver import ApiServer
from services.scheduler.pods.deployment import deployment, name_of, revision_of
from services.scheduler.pods.hindrances import of_deployment, of_pod
from services.scheduler.pods.manifest import KeeperPod
from services.scheduler.pods.native import (
    Native,
    NativeGone,
    Natives,
    RefusedError,
    Workload,
)
from services.scheduler.pods.objects import ApiDeployment, ApiPod

log = logging.getLogger(__name__)

SELECTOR: Final = f"{LABEL_ROLE}={ROLE_FUNCTION}"
END_S: Final = 2
"""How long a pod may take to end that has nothing in flight. Many ignore SIGTERM."""


class KubernetesDeployments:
    """Runs natives as pods of Deployments. See `NativeRuntime`."""

    def __init__(self, server: ApiServer, settings: KeeperPod) -> None:
        self._server = server
        self._settings = settings

    async def list(self) -> tuple[list[Workload], Natives]:
        """Return what there is. See `NativeRuntime`."""
        asked = time.monotonic()
        try:
            deployments = await self._server.list_deployments(label_selector=SELECTOR)
            pods = await self._server.list(label_selector=SELECTOR)
        except ApiError as error:
            raise PodError(f"the Deployments of functions cannot be listed: {error}") from error
        workloads = [w for item in deployments.items if (w := _workload(item)) is not None]
        return workloads, Natives(tuple(_natives(pods.items)), asked)

    async def apply(self, function: ActiveFunction, replicas: int) -> Workload:
        """Apply a Deployment. See `NativeRuntime`."""
        manifest = deployment(function, replicas, self._settings)
        try:
            applied = await self._server.apply_deployment(manifest)
        except ApiError as error:
            if not error.passing and error.status != 409:
                raise RefusedError(f"the cluster refuses its Deployment: {error}") from error
            raise PodError(f"the Deployment of {function.name} is not made: {error}") from error
        of = (function.namespace, function.name, function.revision)
        return Workload(name=name_of(of), of=of, replicas=replicas, trouble=of_deployment(applied))

    async def remove(self, workload: Workload) -> None:
        """Delete a Deployment. See `NativeRuntime`."""
        try:
            await self._server.delete_deployment(workload.name)
        except ApiError as error:
            raise PodError(f"the Deployment {workload.name} may be left: {error}") from error

    async def end(self, native: Native) -> None:
        """Delete a pod. See `NativeRuntime`."""
        try:
            await self._server.delete(native.name, native.uid, END_S)
        except ApiError as error:
            raise PodError(f"the pod {native.name} may still run: {error}") from error

    async def follow(self) -> AsyncGenerator[Natives | Native | NativeGone, None]:
        """Yield natives as they change. See `NativeRuntime`."""
        async with contextlib.aclosing(follow(self._server, label_selector=SELECTOR)) as sightings:
            async for sighting in sightings:
                match sighting:
                    case Listed(pods, asked):
                        yield Natives(tuple(_natives(pods)), asked)
                    case Changed(pod):
                        for native in _natives([pod]):
                            yield native
                    case Removed(pod):
                        yield NativeGone(pod.metadata.uid)


def _natives(pods: list[ApiPod] | tuple[ApiPod, ...]) -> list[Native]:
    """Return the pods whose labels say whose they are."""
    found = []
    for pod in pods:
        try:
            of = revision_of(pod.metadata.labels)
        except ValueError as error:
            log.warning("ignoring the pod %s: %s", pod.metadata.name, error)
            continue
        hindrance = of_pod(pod)
        found.append(
            Native(
                uid=pod.metadata.uid,
                name=pod.metadata.name,
                of=of,
                ending=pod.metadata.deletion_timestamp is not None,
                trouble=hindrance.sentence,
                failed=hindrance.lasting,
            )
        )
    return found


def _workload(item: ApiDeployment) -> Workload | None:
    try:
        of = revision_of(item.metadata.labels)
    except ValueError as error:
        log.warning("ignoring the Deployment %s: %s", item.metadata.name, error)
        return None
    return Workload(
        name=item.metadata.name,
        of=of,
        replicas=item.spec.replicas,
        trouble=of_deployment(item),
    )
