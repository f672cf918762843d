"""Ask a pod whether it serves, and return as soon as it does.

A kubelet probes once a period, so a pod that is ready waits for the next one.
Here a connection is tried again after 2 ms, then after an eighth of the time it
took so far: a keeper is found ready at most that much later. And because a
local keeper's control listener exists before its process does, a connection is
usually accepted at once and then held: the answer comes when the keeper is up,
with no polling at all.

A function's own image is not asked anything, since that would run the function:
it serves when its port takes a connection.
"""

import asyncio
import contextlib
from typing import Final

import httptools
import msgspec

from schemas.control import KeeperHealth
from schemas.unreadable import UNREADABLE

_ANSWER_S: Final = 2.0
"""How long to hold a connection before trying another one: it may lead to nobody by now."""
_PAUSE_S: Final = 0.002
_PAUSE_MAX_S: Final = 0.1
_PAUSE_SHARE: Final = 1 / 8
_SLOW_AFTER_S: Final = 60.0
_PAUSE_SLOW_S: Final = 1.0
_MAX_ANSWER_BYTES: Final = 16 * 1024


class ProbeError(Exception):
    """The keeper did not answer, or not as a keeper does."""


async def until_ready(uid: str, ip: str, port: int) -> KeeperHealth:
    """Return the health of the keeper `uid` as soon as it answers at `ip:port`.

    Runs until it does: bound it by the life of the pod. Another keeper that
    answers at the address is not taken for it.
    """
    loop = asyncio.get_running_loop()
    since = loop.time()
    while True:
        try:
            health = await ask(ip, port)
            if health.keeper == uid:
                return health
        except ProbeError:
            pass
        await asyncio.sleep(pause_s(loop.time() - since))


async def until_connected(ip: str, port: int) -> None:
    """Return as soon as `ip:port` takes a connection, which is closed again at once.

    Runs until it does: bound it by the life of the pod.
    """
    loop = asyncio.get_running_loop()
    since = loop.time()
    while True:
        with contextlib.suppress(OSError):
            async with asyncio.timeout(_ANSWER_S):
                _, writer = await asyncio.open_connection(ip, port)
            # In order: a reset could end a simple server.
            writer.close()
            return
        await asyncio.sleep(pause_s(loop.time() - since))


def pause_s(waited_s: float) -> float:
    """Return how long to wait before the next try, in seconds, after `waited_s` of trying."""
    longest_s = _PAUSE_MAX_S if waited_s < _SLOW_AFTER_S else _PAUSE_SLOW_S
    return min(max(waited_s * _PAUSE_SHARE, _PAUSE_S), longest_s)


async def ask(ip: str, port: int, timeout_s: float = _ANSWER_S) -> KeeperHealth:
    """Return what the keeper at `ip:port` answers to `GET /healthz`.

    Raises:
        ProbeError: no answer within `timeout_s`, or not one that a keeper gives.
    """
    try:
        async with asyncio.timeout(timeout_s):
            answer = await _get(ip, port)
    except TimeoutError:
        raise ProbeError(f"no answer within {timeout_s:g} s") from None
    except (OSError, httptools.HttpParserError) as error:
        raise ProbeError(str(error) or type(error).__name__) from error
    if answer.status != 200:
        raise ProbeError(f"it answers with status {answer.status}")
    try:
        return msgspec.json.decode(answer.body, type=KeeperHealth)
    except UNREADABLE as error:
        raise ProbeError(f"it does not answer as a keeper does: {error}") from error


class _Answer:
    """An HTTP response as llhttp tells it."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.body = b""
        self.complete = False

    @property
    def status(self) -> int:
        return int(self.parser.get_status_code())

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True


async def _get(ip: str, port: int) -> _Answer:
    answer = _Answer()
    reader, writer = await asyncio.open_connection(ip, port, limit=_MAX_ANSWER_BYTES)
    try:
        host = f"[{ip}]" if ":" in ip else ip
        writer.write(f"GET /healthz HTTP/1.1\r\nhost: {host}:{port}\r\n\r\n".encode())
        received = 0
        while not answer.complete:
            data = await reader.read(_MAX_ANSWER_BYTES)
            received += len(data)
            if not data:
                raise ConnectionResetError("it closed the connection without an answer")
            if received > _MAX_ANSWER_BYTES:
                raise OSError(f"its answer is longer than {_MAX_ANSWER_BYTES} bytes")
            answer.parser.feed_data(data)
    finally:
        # No farewell: the keeper owes nothing more, and it may be a stranger.
        writer.transport.abort()
    return answer
