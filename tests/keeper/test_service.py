"""What the server does by the clock and by count, in this process, with the time given."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from keeper import service as service_module
from keeper.answer import Program
from keeper.budget import Budget
from keeper.function import Function, Host
from keeper.loop import Loop
from keeper.runner import Runner
from keeper.sandbox import Sandbox
from keeper.scoreboard import Scoreboards
from keeper.server import BODY_TIMEOUT_S, HEAD_TIMEOUT_S, IDLE_TIMEOUT_S, Connection
from keeper.service import Service, Serving

MIB = 1 << 20


class Server:
    def __init__(self, service: Service, port: int) -> None:
        self.service = service
        self._port = port

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self._port)

    def later(self, seconds: float) -> None:
        """Do what the sweep does, as if `seconds` had passed."""
        now = self.service.loop.time() + seconds
        for connection in list(self.service.connections):
            connection.check(now)


@pytest.fixture
async def server(compiler: Any, standard_streams: None) -> AsyncIterator[Server]:
    descriptor = os.memfd_create("module")
    os.write(descriptor, compiler("flood")[1])
    sandbox = Sandbox(64 * MIB, 64 * MIB, timeout_s=10)
    function = Function(Host(), f"/proc/self/fd/{descriptor}", sandbox, {})
    os.close(descriptor)
    loop = Loop()
    scoreboard = Scoreboards(1).at(0)
    share = Budget(0, 1).share(0, 1)
    service = Service(
        Serving(Program("args", [b"flood.wasm"], {}), b"", 2, MIB),
        Runner(function, scoreboard, share, loop, lambda: None),
        scoreboard,
        share,
        loop,
        lambda *_: None,
    )
    listener = socket.create_server(("127.0.0.1", 0))
    loop.listen(listener, lambda: Connection(service))
    turning = asyncio.create_task(turn(loop))
    yield Server(service, listener.getsockname()[1])
    for connection in list(service.connections):
        connection._transport.abort()  # type: ignore[attr-defined]
    await until(lambda: not service.connections)
    turning.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await turning
    listener.close()
    function.close()


async def turn(loop: Loop) -> None:
    """Run the keeper's loop within asyncio's, where the clients are."""
    while True:
        loop.call_soon(lambda: None)  # so that it does not wait
        loop.turn()
        await asyncio.sleep(0.0005)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 -- the service tells nobody
        await asyncio.sleep(0.001)


async def until_connected(server: Server, count: int = 1) -> None:
    await until(lambda: len(server.service.connections) == count)


async def until_busy(server: Server) -> None:
    await until(lambda: any(c.busy for c in server.service.connections))


@pytest.mark.parametrize(
    ("begun", "seconds"),
    [
        (b"POST / HTTP/1.1\r\nHost: ", HEAD_TIMEOUT_S),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhe", BODY_TIMEOUT_S),
    ],
    ids=["head", "body"],
)
async def test_a_request_that_does_not_arrive_in_time_is_408(
    server: Server, begun: bytes, seconds: float
) -> None:
    reader, writer = await server.connect()
    writer.write(begun)
    await until_busy(server)
    server.later(seconds - 1)
    server.later(seconds + 1)
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert answer.count(b"HTTP/1.1") == 1
    writer.close()


async def test_an_idle_connection_is_closed_in_the_end(server: Server) -> None:
    reader, writer = await server.connect()
    await until_connected(server)
    server.later(IDLE_TIMEOUT_S - 1)
    assert not server.service.connections.copy().pop().busy
    server.later(IDLE_TIMEOUT_S + 1)
    assert await reader.read() == b""
    writer.close()


async def test_a_client_that_does_not_read_is_counted_and_cut_off(server: Server) -> None:
    _, writer = await server.connect()
    body = b'{"args":["20000000"]}'
    writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    await until(lambda: server.service.stalled == 1)
    assert not server.service.quiet()
    server.later(1)  # sees how much is unsent
    server.later(BODY_TIMEOUT_S + 2)
    await until_connected(server, 0)
    assert server.service.stalled == 0
    writer.transport.abort()


async def test_connections_above_the_limit_are_closed_at_once(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "MAX_CONNECTIONS", 1)
    _, first = await server.connect()
    await until_connected(server)
    reader, second = await server.connect()
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    assert len(server.service.connections) == 1
    for writer in (first, second):
        writer.transport.abort()


async def test_bodies_that_are_not_answered_give_their_room_back(server: Server) -> None:
    _, writer = await server.connect()
    writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhell")
    await until(lambda: server.service.buffered == 4)
    writer.transport.abort()
    await until_connected(server, 0)
    assert server.service.buffered == 0
