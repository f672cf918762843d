"""Ask the API server of a Kubernetes cluster about pods, and have it make and end them."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

from kubernetes_asyncio.client import ApiClient, AppsV1Api, CoreV1Api

from services.kubernetes.api import (
    ApiError,
    Call,
    LoginError,
    answer,
    decode,
    login,
    watch,
    whole_list,
)
from services.kubernetes.objects import WatchEvent
from services.scheduler.pods import PodError
from services.scheduler.pods.manifest import Manifest
from services.scheduler.pods.objects import (
    ApiDeployment,
    ApiPod,
    DeploymentList,
    PodList,
    ServiceAccount,
)

FIELD_MANAGER: Final = "wasmfn-scheduler"


class ApiServer:
    """The pods and Deployments of one Kubernetes namespace. Made by `connect`."""

    def __init__(self, client: ApiClient, namespace: str) -> None:
        # Their annotations lack parameters that they take, and what comes without preloading.
        self._pods: Any = CoreV1Api(client)
        self._apps: Any = AppsV1Api(client)
        self.namespace = namespace
        self.kind = ApiPod
        self.what = f"the pods of {namespace}"

    async def list(self, **selectors: str) -> PodList:
        """Return all pods that the selectors select, as of now.

        Raises:
            ApiError: it was not answered, or not whole. That is never an empty list.
        """
        return await whole_list(
            self._pods.list_namespaced_pod, PodList, self.namespace, **selectors
        )

    def watch(self, version: str, **selectors: str) -> AsyncGenerator[WatchEvent, None]:
        """Yield what happened after `version`, until it is time to list again.

        Raises:
            ApiError: the watch broke.
        """
        return watch(self._pods.list_namespaced_pod, version, self.namespace, **selectors)

    async def apply(self, manifest: Manifest) -> ApiPod:
        """Have a pod be as in `manifest`; return it. Doing it twice makes one pod.

        Raises:
            ApiError: it was refused, or nobody knows.
        """
        return decode(await self._apply(self._pods.patch_namespaced_pod, manifest), ApiPod)

    async def delete(self, name: str, uid: str, grace_s: int) -> bool:
        """Tell the pod `uid` to end within `grace_s`; 0 forgets it without waiting for its node.

        Return whether there was such a pod.

        Raises:
            ApiError: it was refused, or nobody knows.
        """
        options = {"gracePeriodSeconds": grace_s, "preconditions": {"uid": uid}}
        try:
            await answer(self._pods.delete_namespaced_pod, name, self.namespace, body=options)
        except ApiError as error:
            if error.status in (404, 409):  # None of that name, or another one.
                return False
            raise
        return True

    async def list_deployments(self, **selectors: str) -> DeploymentList:
        """Return all Deployments that the selectors select, as of now.

        Raises:
            ApiError: it was not answered, or not whole. That is never an empty list.
        """
        return await whole_list(
            self._apps.list_namespaced_deployment, DeploymentList, self.namespace, **selectors
        )

    async def apply_deployment(self, manifest: Manifest) -> ApiDeployment:
        """Have a Deployment be as in `manifest`; return it. Doing it twice changes nothing.

        Raises:
            ApiError: it was refused, or nobody knows.
        """
        data = await self._apply(self._apps.patch_namespaced_deployment, manifest)
        return decode(data, ApiDeployment)

    async def delete_deployment(self, name: str) -> None:
        """Delete a Deployment, and let the cluster end its pods. None of that name is fine.

        Raises:
            ApiError: it was refused, or nobody knows.
        """
        options = {"propagationPolicy": "Background"}
        try:
            await answer(
                self._apps.delete_namespaced_deployment, name, self.namespace, body=options
            )
        except ApiError as error:
            if error.status != 404:
                raise

    async def _apply(self, patch: Call, manifest: Manifest) -> bytes:
        """Have the server make an object what the manifest says, whatever it was."""
        return await answer(
            patch,
            manifest["metadata"]["name"],
            self.namespace,
            manifest,
            field_manager=FIELD_MANAGER,
            force=True,
            _content_type="application/apply-patch+yaml",
        )

    async def account_uid(self, name: str) -> str:
        """Return the uid of a service account.

        Raises:
            ApiError: it was refused, there is none of that name, or nobody knows.
        """
        data = await answer(self._pods.read_namespaced_service_account, name, self.namespace)
        return decode(data, ServiceAccount).metadata.uid


@contextlib.asynccontextmanager
async def connect(namespace: str, kubeconfig: str = "") -> AsyncIterator[ApiServer]:
    """Yield a client for the pods and Deployments of `namespace`.

    Args:
        namespace: of Kubernetes.
        kubeconfig: a file that tells how to reach the API server; without one, what every pod
            is given is used.

    Raises:
        PodError: neither tells how. That the server does not answer is found out later.
    """
    try:
        client = await login(kubeconfig)
    except LoginError as error:
        raise PodError(str(error)) from error
    async with client:
        yield ApiServer(client, namespace)
