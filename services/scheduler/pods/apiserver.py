"""Ask the API server of a Kubernetes cluster about pods, and have it make and end them.

The one place of the scheduler that imports `kubernetes_asyncio`, which takes
most of a second and 70 MiB. It is used for what is tedious to get right:
kubeconfig files, accounts of pods and their tokens that change. Answers are
decoded here, since only a few fields of them matter, and its watch hides that
a version was forgotten.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator
from typing import Any, Final, TypeVar

import aiohttp
import msgspec
from kubernetes_asyncio import config
from kubernetes_asyncio.client import ApiClient, AppsV1Api, Configuration, CoreV1Api
from kubernetes_asyncio.client.exceptions import OpenApiException

from services.scheduler.pods import PodError
from services.scheduler.pods.manifest import Manifest
from services.scheduler.pods.objects import (
    GONE,
    ApiDeployment,
    ApiPod,
    DeploymentList,
    PodList,
    Problem,
    ServiceAccount,
    WatchEvent,
)

FIELD_MANAGER: Final = "wasmfn-scheduler"
WATCH_S: Final = 60
"""How long one watch lasts. After each everything is listed, which mends what was missed."""

_ANSWER_S: Final = 10.0
_MAX_LINE_BYTES: Final = 4 * 1024 * 1024
"""More than etcd stores of one object."""
_MAX_LIST_BYTES: Final = 64 * 1024 * 1024

T = TypeVar("T", bound=msgspec.Struct)


class ApiError(Exception):
    """The API server did not do it; or, when the connection broke, nobody knows whether it did.

    `status` is that of its answer, and 0 when there was none.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status

    @property
    def passing(self) -> bool:
        """Whether the same may succeed a little later."""
        return self.status in (0, 401, 408, 429) or self.status >= 500


class ApiServer:
    """The pods and Deployments of one Kubernetes namespace. Made by `connect`."""

    def __init__(self, client: ApiClient, namespace: str) -> None:
        # Their annotations lack parameters that they take, and what comes without preloading.
        self._pods: Any = CoreV1Api(client)
        self._apps: Any = AppsV1Api(client)
        self.namespace = namespace

    async def list(self, **selectors: str) -> PodList:
        """Return all pods that the selectors select, as of now.

        Raises:
            ApiError: it was not answered, or not whole. That is never an empty list.
        """
        # No version asked for: the answer is what etcd has, not what some cache had.
        data = await self._answer(
            self._pods.list_namespaced_pod(self.namespace, _preload_content=False, **selectors)
        )
        found = _decode(data, PodList)
        if found.metadata.more:
            raise ApiError("the list of pods is incomplete")
        return found

    async def watch(self, version: str, **selectors: str) -> AsyncGenerator[WatchEvent, None]:
        """Yield what happened after `version`, until it is time to list again.

        Raises:
            ApiError: the watch broke.
        """
        call = self._pods.list_namespaced_pod(
            self.namespace,
            watch=True,
            resource_version=version,
            timeout_seconds=WATCH_S,
            _preload_content=False,
            # Not as a whole: without this it would end after aiohttp's five minutes.
            _request_timeout=aiohttp.ClientTimeout(total=None, sock_connect=_ANSWER_S),
            **selectors,
        )
        # The server ends it in time. One that does not is not there any more.
        ends = asyncio.get_running_loop().time() + WATCH_S + _ANSWER_S
        with _translated():
            async with asyncio.timeout(_ANSWER_S):
                response = await _response(call)
            async with response, contextlib.aclosing(_lines(response, ends)) as lines:
                await _check(response)
                try:
                    async for line in lines:
                        event = _decode(line, WatchEvent)
                        if event.type == "ERROR":
                            problem = _decode(event.object, Problem)
                            if problem.code == GONE:
                                return
                            raise ApiError(f"the watch ended: {problem.message}", problem.code)
                        yield event
                finally:
                    # Whoever left before the end waits for no farewell over TLS.
                    if response.connection is not None and response.connection.transport:
                        response.connection.transport.abort()

    async def apply(self, manifest: Manifest) -> ApiPod:
        """Have a pod be as in `manifest`; return it. Doing it twice makes one pod.

        Raises:
            ApiError: it was refused, or nobody knows.
        """
        data = await self._answer(
            self._pods.patch_namespaced_pod(
                manifest["metadata"]["name"],
                self.namespace,
                manifest,
                field_manager=FIELD_MANAGER,
                force=True,
                _content_type="application/apply-patch+yaml",
                _preload_content=False,
            )
        )
        return _decode(data, ApiPod)

    async def delete(self, name: str, uid: str, grace_s: int) -> bool:
        """Tell the pod `uid` to end within `grace_s`; 0 forgets it without waiting for its node.

        Return whether there was such a pod.

        Raises:
            ApiError: it was refused, or nobody knows.
        """
        options = {"gracePeriodSeconds": grace_s, "preconditions": {"uid": uid}}
        try:
            await self._answer(
                self._pods.delete_namespaced_pod(
                    name, self.namespace, body=options, _preload_content=False
                )
            )
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
        data = await self._answer(
            self._apps.list_namespaced_deployment(
                self.namespace, _preload_content=False, **selectors
            )
        )
        found = _decode(data, DeploymentList)
        if found.metadata.more:
            raise ApiError("the list of Deployments is incomplete")
        return found

    async def apply_deployment(self, manifest: Manifest) -> ApiDeployment:
        """Have a Deployment be as in `manifest`; return it. Doing it twice changes nothing.

        Raises:
            ApiError: it was refused, or nobody knows.
        """
        data = await self._answer(
            self._apps.patch_namespaced_deployment(
                manifest["metadata"]["name"],
                self.namespace,
                manifest,
                field_manager=FIELD_MANAGER,
                force=True,
                _content_type="application/apply-patch+yaml",
                _preload_content=False,
            )
        )
        return _decode(data, ApiDeployment)

    async def delete_deployment(self, name: str) -> None:
        """Delete a Deployment, and let the cluster end its pods. None of that name is fine.

        Raises:
            ApiError: it was refused, or nobody knows.
        """
        options = {"propagationPolicy": "Background"}
        try:
            await self._answer(
                self._apps.delete_namespaced_deployment(
                    name, self.namespace, body=options, _preload_content=False
                )
            )
        except ApiError as error:
            if error.status != 404:
                raise

    async def account_uid(self, name: str) -> str:
        """Return the uid of a service account.

        Raises:
            ApiError: it was refused, there is none of that name, or nobody knows.
        """
        data = await self._answer(
            self._pods.read_namespaced_service_account(name, self.namespace, _preload_content=False)
        )
        return _decode(data, ServiceAccount).metadata.uid

    async def _answer(self, call: Awaitable[Any]) -> bytes:
        with _translated():
            async with asyncio.timeout(_ANSWER_S):
                async with await _response(call) as response:
                    await _check(response)
                    return await _read(response, _MAX_LIST_BYTES)


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
    configuration = Configuration()
    try:
        if kubeconfig:
            await config.load_kube_config(kubeconfig, client_configuration=configuration)
        else:
            config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
    except (config.ConfigException, OSError) as error:
        raise PodError(f"cannot tell how to reach the API server: {error}") from error
    async with ApiClient(configuration) as client:
        yield ApiServer(client, namespace)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Make an ApiError of whatever goes wrong between us and the server."""
    try:
        yield
    except TimeoutError:
        raise ApiError("the API server does not answer") from None
    except (OSError, aiohttp.ClientError, OpenApiException, config.ConfigException) as error:
        text = str(error) or type(error).__name__
        raise ApiError(f"the API server cannot be asked: {text}") from error


async def _response(call: Awaitable[Any]) -> aiohttp.ClientResponse:
    """Return the response itself: that is what comes without `_preload_content`."""
    response: aiohttp.ClientResponse = await call
    return response


async def _check(response: aiohttp.ClientResponse) -> None:
    if 200 <= response.status < 300:
        return
    body = await _read(response, _MAX_LINE_BYTES)
    try:
        said = msgspec.json.decode(body, type=Problem).message
    except msgspec.DecodeError:
        said = body[:500].decode("utf-8", "replace")
    raise ApiError(f"the API server answers {response.status}: {said}", response.status)


async def _lines(response: aiohttp.ClientResponse, ends: float) -> AsyncGenerator[bytes, None]:
    """Yield each line until the response ends, or until `ends` by the loop's clock."""
    rest = b""
    while True:
        async with asyncio.timeout_at(ends):
            data = await response.content.readany()
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > _MAX_LINE_BYTES:
            raise ApiError(f"an event is longer than {_MAX_LINE_BYTES} bytes")
        for line in lines:
            yield line


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    body = bytearray()
    async for data in response.content.iter_any():
        body += data
        if len(body) > most:
            raise ApiError(f"an answer is longer than {most} bytes")
    return bytes(body)


def _decode(data: bytes | msgspec.Raw, what: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=what)
    except msgspec.DecodeError as error:
        raise ApiError(
            f"the API server says something that is no {what.__name__}: {error}"
        ) from error
