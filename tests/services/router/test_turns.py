"""When a connection begins a request: after the one before, and not for who does not read."""

import asyncio
import socket

import pytest

from services.router.protocol import ClientConnection
from tests.services.router.clients import Peer, eventually
from tests.services.router.gate import Gate, MakeGate
from tests.services.router.instances import Call

GET = b"GET /f HTTP/1.1\r\nhost: a\r\n\r\n"
POST = b"POST /f HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n"
BIG = b"x" * 100_000


async def big(call: Call) -> None:
    await call.read_body()
    await call.answer(BIG)


async def idle_reader(gate: Gate) -> tuple[Peer, ClientConnection]:
    """Return a client for which the kernel holds little, and the router's end of it."""
    own = socket.socket()
    own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    own.setblocking(False)
    await asyncio.get_running_loop().sock_connect(own, ("127.0.0.1", gate.port))
    peer = Peer(*await asyncio.open_connection(sock=own, limit=1024))
    await eventually(lambda: bool(gate.server_state.connections))
    [connection] = gate.server_state.connections
    assert isinstance(connection, ClientConnection)
    theirs = connection.transport.get_extra_info("socket")
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return peer, connection


async def test_a_body_that_looks_like_a_known_request_stays_a_body_whatever_was_refused_before_it(
    make_gate: MakeGate,
) -> None:
    gate = await make_gate(per_function=1, total=1)
    gate.function()
    first = await gate.instance()
    peer = await gate.client()
    for _ in range(2):
        await peer.send(GET)
        assert (await peer.response()).status == 200
    gate.state.withdraw(("default", "f"), first.endpoint.instance)
    waiting = asyncio.create_task(gate.request("GET", "/f"))
    await eventually(lambda: len(gate.slots.lot) == 1)
    # The first is refused for want of room before the second has begun, in the same piece.
    await peer.send(POST % 1 + b"x" + POST % len(GET))
    assert (await peer.response()).status == 503
    second = await gate.instance()
    assert (await waiting).status == 200
    await peer.send(GET)
    assert (await peer.response()).body == GET
    assert [(call.method, call.body) for call in second.calls] == [("GET", b""), ("POST", GET)]
    peer.close()


async def test_nothing_is_begun_for_a_client_that_does_not_read_its_answers(gate: Gate) -> None:
    instance = await gate.instance(big)
    peer, connection = await idle_reader(gate)
    for number in range(50):
        await peer.send(GET)
        await eventually(lambda n=number: len(instance.calls) > n or connection._unread)
        if connection._unread:
            break
    assert connection._unread
    asked = len(instance.calls)
    await peer.send(GET * 20)
    assert (await gate.request("POST", "/f", b"x")).status == 200
    assert len(instance.calls) == asked + 1
    assert connection.transport.get_write_buffer_size() < 2 * len(BIG) + 65536
    for _ in range(asked + 20):
        assert (await peer.response()).body == BIG
    peer.close()


async def test_pipelined_requests_wait_for_the_client_to_read(gate: Gate) -> None:
    instance = await gate.instance(big)
    peer, connection = await idle_reader(gate)
    await peer.send(GET * 30)
    await eventually(lambda: connection._unread)
    assert len(instance.calls) < 10
    for _ in range(30):
        assert (await peer.response()).body == BIG
    peer.close()


@pytest.mark.parametrize(
    "request_", [GET, GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")]
)
async def test_a_client_that_never_reads_its_answer_is_cut(
    make_gate: MakeGate, request_: bytes
) -> None:
    gate = await make_gate(keep_alive_s=0.3)
    gate.function()
    await gate.instance(big)
    peer, _ = await idle_reader(gate)
    await peer.send(request_)
    await eventually(lambda: not gate.server_state.connections)
    peer.close()


async def test_what_was_answered_is_kept_no_longer(gate: Gate) -> None:
    await gate.instance()
    peer = await gate.client()
    for _ in range(3):
        await peer.send(POST % 9 + b"something")
        assert (await peer.response()).status == 200
        [connection] = gate.server_state.connections
        assert connection.cycle is None
    peer.close()


async def test_who_waits_for_a_function_that_is_deleted_is_counted(gate: Gate) -> None:
    waiting = asyncio.create_task(gate.request("GET", "/f"))
    await eventually(lambda: len(gate.slots.lot) == 1)
    gate.state.remove_function(("default", "f"))
    gate.slots.changed([("default", "f")])
    assert (await waiting).status == 503
    counted = sum(f.tally.classes[5] for f in gate.state.counted() if f.tally is not None)
    assert counted == 1


async def test_a_request_that_breaks_off_in_its_body_is_counted_as_what_it_was_answered(
    gate: Gate,
) -> None:
    peer = await gate.client()
    await peer.send(b"POST /f HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
    await eventually(lambda: bool(gate.server_state.connections))
    await peer.send(b"no size\r\n")
    assert (await peer.response()).status == 400
    peer.close()
    await eventually(lambda: not gate.server_state.connections)
    assert gate.metrics.clients_gone == 0
    classes = [f.tally.classes for f in gate.state.counted() if f.tally is not None]
    assert [sum(counts) for counts in zip(*classes, strict=True)][4] == 1
