"""Pooled connections to instances, seen from their owner."""

import asyncio
import socket
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any

import pytest

from services.router.exchange import CallFailed, Exchange
from services.router.limits import RELAY_BYTES
from services.router.pool import ConnectFailed, Pool
from services.router.upstream import Connection
from tests.services.router.clients import eventually
from tests.services.router.instances import Call, Instance, echo

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


@pytest.fixture
async def instance() -> AsyncIterator[Instance]:
    made = await Instance("f", echo).start()
    yield made
    await made.stop()


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    made = Pool(connect_s=0.2, idle_s=0.2)
    yield made
    made.close()


async def call(connection: Connection) -> Exchange:
    exchange = Exchange(connection)
    connection.start(exchange, "GET", GET)
    connection.finish()
    await exchange.head()
    while await exchange.read():
        pass
    return exchange


async def test_the_connection_used_last_is_used_next_and_idle_ones_are_closed(
    pool: Pool, instance: Instance
) -> None:
    first, second = await pool.connect(instance.endpoint), await pool.connect(instance.endpoint)
    await call(first)
    await call(second)
    assert pool.idle() == 2
    assert pool.take(instance.endpoint) is second
    assert second.reused
    await eventually(lambda: pool.idle() == 0)
    assert not first.usable
    assert second.usable
    second.close()


async def test_the_bound_of_a_call_that_is_over_does_not_end_the_next(
    pool: Pool, instance: Instance
) -> None:
    connection = await pool.connect(instance.endpoint)
    bound = monotonic() + 0.2
    first = Exchange(connection)
    connection.call(first, "GET", GET, bound)
    await first.head()
    while await first.read():
        pass
    head, rest = GET[:-2], GET[-2:]
    second = Exchange(connection)
    connection.start(second, "GET", head)
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(bound - monotonic() + 0.05, over.set)
    await over.wait()
    connection.send(rest)
    connection.finish()
    assert (await second.head())[0] == 200
    assert await second.read() == b""
    connection.close()


async def test_an_answer_that_is_whole_while_its_reader_is_slow_leaves_a_connection_that_reads(
    pool: Pool, instance: Instance
) -> None:
    quiet = asyncio.Event()

    async def handler(_: Call) -> None:
        await quiet.wait()

    instance.handler = handler
    connection = await pool.connect(instance.endpoint)
    exchange = Exchange(connection)
    connection.start(exchange, "GET", GET)
    connection.finish()
    body = b"x" * (2 * RELAY_BYTES)
    # In one piece, as a fast network may bring it.
    connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    assert exchange.ended
    again = pool.take(instance.endpoint)
    assert again is connection
    instance.handler = echo
    quiet.set()
    async with asyncio.timeout(30):
        await call(connection)
    assert await exchange.read() == body


async def test_nothing_that_listens_and_nobody_that_answers_are_told_apart(pool: Pool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    fields: dict[str, Any] = {"port": port}
    with pytest.raises(ConnectFailed) as refused:
        await pool.connect(Instance("f", echo, **fields).endpoint)
    assert refused.value.failure == "refused"
    # A listener whose queue is full drops what comes, as a lost host does.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        fill = [socket.socket() for _ in range(3)]
        for one in fill:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        with pytest.raises(ConnectFailed) as unreachable:
            await pool.connect(Instance("f", echo, port=port).endpoint)
        for one in fill:
            one.close()
    assert unreachable.value.failure == "unreachable"


async def test_a_port_that_is_connected_to_itself_counts_as_refused(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    create = pool.loop.create_connection

    async def from_the_same_port(factory: Any, host: str, to: int) -> Any:
        return await create(factory, host, to, local_addr=("127.0.0.1", to))

    monkeypatch.setattr(pool.loop, "create_connection", from_the_same_port)
    with pytest.raises(ConnectFailed) as refused:
        await pool.connect(Instance("f", echo, port=port).endpoint)
    assert refused.value.failure == "refused"


async def test_an_interim_answer_with_a_body_is_malformed_and_its_body_is_nobodys(
    pool: Pool, instance: Instance
) -> None:
    connection = await pool.connect(instance.endpoint)
    exchange = Exchange(connection)
    connection.start(exchange, "GET", GET)
    connection.finish()
    connection.data_received(
        b"HTTP/1.1 103 Early Hints\r\ncontent-length: 1\r\n\r\n"
        b"aHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nb"
    )
    with pytest.raises(CallFailed) as failed:
        await exchange.head()
    assert failed.value.failure == "malformed"
    assert pool.idle() == 0
