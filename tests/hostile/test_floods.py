"""Thousands of connections that hardly speak: those who do are served, and little is held."""

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.specs import Limits
from tests.hostile.test_requests import play, statuses
from tests.keeper.conftest import Keeper, Loaded
from tests.services.router.clients import Peer, connect, eventually
from tests.services.router.platform import Platform

SLOW = 2000
MIB_EACH = 48 / 1024
"""What a connection may cost: a half of it is the beginning of a body that is held."""
SPARE = 64
"""Descriptors and MiB that have other reasons."""


@pytest.fixture(autouse=True)
def room() -> Iterator[None]:
    """Let this process, too, hold so many connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < SLOW + 200:
        pytest.skip(f"no process may have more than {hard} files open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - as many names, no paths


def memory_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def slow(number: int, token: str = "") -> bytes:
    """Return the beginning of a request: of its head, of a long body, or of chunks."""
    head = b"POST /f HTTP/1.1\r\nhost: a\r\n" + token.encode()
    return (
        head + b"x: " + b"y" * 8000,
        head + b"content-length: 1000000\r\n\r\n" + b"x" * 16_000,
        head + b"transfer-encoding: chunked\r\n\r\n1000\r\n" + b"x" * 4000,
        head[:5],
    )[number % 4]


async def test_a_router_that_holds_thousands_of_slow_connections_serves_and_stays_small(
    platform: Platform,
) -> None:
    await platform.function()
    await platform.route()
    await platform.instance()
    router = await platform.router(head_s="300", stall_s="300")
    pid = router.process.pid
    assert (await router.request("POST", "/f", b"before")).body == b"before"
    files, memory = descriptors(pid), memory_mib(pid)
    held: list[Peer] = []
    for number in range(SLOW):
        peer = await connect(router.port)
        await peer.send(slow(number))
        held.append(peer)
    await eventually(lambda: descriptors(pid) >= SLOW)
    for number in range(20):
        body = b"during %d" % number
        assert (await router.request("POST", "/f", body)).body == body
    assert memory_mib(pid) - memory < SLOW * MIB_EACH + SPARE
    for peer in held:
        peer.writer.transport.abort()
    await eventually(lambda: descriptors(pid) < files + SPARE)
    assert (await router.request("POST", "/f", b"after")).body == b"after"


async def test_a_router_at_its_most_connections_says_so_and_takes_new_ones_when_others_end(
    platform: Platform,
) -> None:
    await platform.function()
    await platform.route()
    await platform.instance()
    router = await platform.router(max_connections="500", head_s="300")
    files = descriptors(router.process.pid)
    held = [await router.client() for _ in range(500)]
    for peer in held:
        await peer.send(b"GET")
    late = [await router.client() for _ in range(200)]
    for peer in late:
        async with asyncio.timeout(30):
            assert (await peer.response()).status == 503
    assert descriptors(router.process.pid) < files + 500 + SPARE + len(late)
    for peer in held:
        peer.writer.transport.abort()

    async def served() -> bool:
        return (await router.request("GET", "/f")).status == 200

    await eventually(served)
    for peer in late:
        peer.close()


# A keeper's ports.


@pytest.fixture
def loaded(keeper: Keeper) -> Loaded:
    return keeper.load("echo", interface="stdin", limits=Limits(timeout_s=5, body_bytes=1 << 20))


@contextlib.contextmanager
def flood(port: int, token: str = "") -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        held = []
        for number in range(SLOW):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), 60))
            with contextlib.suppress(ConnectionError):
                connection.sendall(slow(number, token))
            held.append(connection)
        yield held


async def test_an_instance_that_holds_thousands_of_slow_connections_serves_and_stays_small(
    loaded: Loaded,
) -> None:
    pid = loaded.reply.pid
    assert loaded.call(b"before")[1] == b"before"
    files, memory = descriptors(pid), memory_mib(pid)
    with flood(loaded.reply.port, f"x-wasmfn-instance: {loaded.token}\r\n"):
        for number in range(20):
            body = b"during %d" % number
            assert loaded.call(body)[1] == body
        assert descriptors(pid) <= files + SLOW + SPARE
        assert memory_mib(pid) - memory < SLOW * MIB_EACH + SPARE
    await eventually(lambda: descriptors(pid) < files + SPARE)
    assert loaded.call(b"after")[1] == b"after"


async def test_a_control_port_under_a_flood_obeys_its_scheduler_and_holds_few_of_the_others(
    keeper: Keeper, loaded: Loaded
) -> None:
    pid = keeper.process.pid
    files, memory = descriptors(pid), memory_mib(pid)
    with flood(keeper.port):
        assert keeper.http("GET", "/healthz")[0] == 200
        assert keeper.load("sort").run("2", "1")["output"] == ["1 2"]
        assert loaded.call(b"during")[1] == b"during"
        assert descriptors(pid) < files + 256
        assert memory_mib(pid) - memory < SPARE
        assert statuses(play(keeper.port, b"GET /watch HTTP/1.1\r\n\r\n")) == (401,)
    await eventually(lambda: descriptors(pid) < files + SPARE)
