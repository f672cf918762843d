"""Ask an API server: log in, read an answer whole or a watch line by line, know what went wrong.

`kubernetes_asyncio` is used for what is tedious to get right: kubeconfig files,
accounts of pods and their tokens that change, the paths of calls. Answers are
decoded by who asks, since only a few fields of them matter, and its watch hides
that a version was forgotten.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any, Final, Protocol, TypeVar

import aiohttp
import msgspec
from kubernetes_asyncio import config
from kubernetes_asyncio.client import ApiClient, Configuration
from kubernetes_asyncio.client.exceptions import OpenApiException

from schemas.unreadable import UNREADABLE
from services.kubernetes.objects import GONE, ListMetadata, Problem, WatchEvent

log = logging.getLogger(__name__)

WATCH_S: Final = 60
"""How long one watch lasts. After each everything is listed, which mends what was missed."""

_ANSWER_S: Final = 10.0
_MAX_LINE_BYTES: Final = 4 * 1024 * 1024
"""More than etcd stores of one object."""
_MAX_LIST_BYTES: Final = 64 * 1024 * 1024

Call = Callable[..., Awaitable[Any]]
"""A method of one of the library's APIs. Its annotations lack parameters that it takes, and what
comes without preloading."""


class _Whole(Protocol):
    """A list as the API server answers it."""

    @property
    def metadata(self) -> ListMetadata: ...


T = TypeVar("T")
L = TypeVar("L", bound=_Whole)


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


class LoginError(Exception):
    """Nothing tells how to reach the API server. The message is one sentence."""


async def login(kubeconfig: str = "") -> ApiClient:
    """Return a client, to be closed by the caller.

    Args:
        kubeconfig: a file that tells how to reach the API server; without one, what every pod
            is given is used.

    Raises:
        LoginError: neither tells how. That the server does not answer is found out later.
    """
    configuration = Configuration()
    try:
        if kubeconfig:
            await config.load_kube_config(kubeconfig, client_configuration=configuration)
        else:
            config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
    except (config.ConfigException, OSError) as error:
        raise LoginError(f"cannot tell how to reach the API server: {error}") from error
    return ApiClient(configuration)


async def answer(call: Call, *words: Any, within_s: float = _ANSWER_S, **options: Any) -> bytes:
    """Return the body of the answer to `call`.

    Raises:
        ApiError: it was refused, or nobody knows.
    """
    with _translated():
        async with asyncio.timeout(within_s):
            async with await _response(call(*words, _preload_content=False, **options)) as response:
                await _check(response)
                return await _read(response, _MAX_LIST_BYTES)


async def whole_list(call: Call, kind: type[L], *words: Any, **selectors: Any) -> L:
    """Return all that there is as of now, of what the selectors select.

    Raises:
        ApiError: it was not answered, or not whole. That is never an empty list.
    """
    # No version asked for: the answer is what etcd has, not what some cache had.
    found = decode(await answer(call, *words, **selectors), kind)
    if found.metadata.more:
        raise ApiError("the list is incomplete")
    return found


async def watch(
    call: Call, version: str, *words: Any, **selectors: Any
) -> AsyncGenerator[WatchEvent, None]:
    """Yield what happened after `version`, until it is time to list again.

    Raises:
        ApiError: the watch broke.
    """
    asked = call(
        *words,
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
            response = await _response(asked)
        async with response, contextlib.aclosing(_lines(response, ends)) as lines:
            await _check(response)
            try:
                async for line in lines:
                    event = decode(line, WatchEvent)
                    if event.type == "ERROR":
                        problem = decode(event.object, Problem)
                        if problem.code == GONE:
                            log.info("the watch ended: %s", problem.message)
                            return
                        raise ApiError(f"the watch ended: {problem.message}", problem.code)
                    yield event
            finally:
                # Whoever left before the end waits for no farewell over TLS.
                if response.connection is not None and response.connection.transport:
                    response.connection.transport.abort()


def decode(data: bytes | msgspec.Raw, what: type[T]) -> T:
    """Return what the API server said.

    Raises:
        ApiError: it is nothing of the kind.
    """
    try:
        return msgspec.json.decode(data, type=what)
    except UNREADABLE as error:
        raise ApiError(
            f"the API server says something that is no {what.__name__}: {error}"
        ) from error


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
    except UNREADABLE:
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
