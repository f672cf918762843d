"""The corpus of requests, against a router and a keeper's ports."""

import asyncio
import contextlib
import re
import socket

import pytest

from schemas.specs import Limits
from tests.hostile.attacks import ATTACKS, Attack
from tests.keeper.conftest import Keeper, Loaded
from tests.services.router.clients import eventually
from tests.services.router.gate import Gate, MakeGate

each = pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)


def statuses(raw: bytes) -> tuple[int, ...]:
    """Return the statuses of the final answers in what came on a connection."""
    found = (int(status) for status in re.findall(rb"HTTP/1\.[01] ([0-9]{3}) ", raw))
    return tuple(status for status in found if status != 100)


def test_the_corpus_is_large_and_no_two_attacks_have_one_name() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) >= 60


# The router.


@each
async def test_the_router_answers_each_request_once_and_runs_no_hidden_one(
    gate: Gate, attack: Attack
) -> None:
    instance = await gate.instance(concurrency=1)  # so that there is one connection to poison
    raw = await gate.raw(attack.raw)
    assert statuses(raw) == attack.router
    assert len(instance.calls) == attack.router.count(200)
    assert all("hidden" not in call.target for call in instance.calls)
    assert all(call.header["x-wasmfn-instance"] == instance.fields["token"]
               for call in instance.calls)  # fmt: skip
    assert all(call.header["x-forwarded-for"] == "127.0.0.1" for call in instance.calls)
    before = instance.connections
    served = await gate.request("POST", "/f", b"whose answer is this?")
    assert (served.status, served.body) == (200, b"whose answer is this?")
    assert before == 0 or instance.connections == before
    await eventually(gate.quiet)


async def test_slow_heads_and_bodies_are_ended_and_keep_nobody_waiting(
    make_gate: MakeGate,
) -> None:
    gate = await make_gate(head_s=1.0, stall_s=1.0)
    gate.function()
    instance = await gate.instance()
    slow = [await gate.client() for _ in range(100)]
    for number, peer in enumerate(slow):
        body = b"content-length: 9\r\n\r\n" if number % 2 else b""
        await peer.send(b"POST /f HTTP/1.1\r\nhost: a\r\n" + body + b"x")
    assert (await gate.request("POST", "/f", b"fast")).body == b"fast"
    for peer in slow:
        async with asyncio.timeout(30):
            assert statuses(await peer.at_end()) == (408,)
        peer.close()
    assert len(instance.calls) == 1
    await eventually(gate.quiet)


# A keeper's ports.


@pytest.fixture(scope="module")
def loaded(keeper: Keeper) -> Loaded:
    return keeper.load("echo", interface="stdin", limits=Limits(timeout_s=5, body_bytes=1 << 20))


def play(port: int, raw: bytes) -> bytes:
    """Send `raw` on a fresh connection and return all that comes until it is closed."""
    got = b""
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(raw)
        with contextlib.suppress(ConnectionError):
            while data := connection.recv(1 << 16):
                got += data
    return got


@each
def test_an_instance_answers_each_request_once_and_runs_no_hidden_one(
    keeper: Keeper, loaded: Loaded, attack: Attack
) -> None:
    raw = play(loaded.reply.port, attack.to_instance(loaded.token))
    assert statuses(raw) == attack.by_keeper
    assert raw.count(b"x-wasmfn-run-ms") == attack.by_keeper.count(200)
    assert loaded.call(b"whose answer is this?")[1] == b"whose answer is this?"


@each
def test_the_control_port_answers_once_and_obeys_nothing(keeper: Keeper, attack: Attack) -> None:
    assert len(got := statuses(play(keeper.port, attack.raw))) == 1
    assert got[0] in (400, 401, 403, 413)
    assert keeper.http("GET", "/healthz")[0] == 200


def test_slow_heads_and_bodies_keep_nobody_from_an_instance(keeper: Keeper, loaded: Loaded) -> None:
    slow = [socket.create_connection((loaded.reply.ip, loaded.reply.port), 60) for _ in range(100)]
    for number, connection in enumerate(slow):
        token = f"x-wasmfn-instance: {loaded.token}\r\n"
        body = "content-length: 9\r\n\r\n" if number % 2 else ""
        connection.sendall(f"POST / HTTP/1.1\r\nhost: a\r\n{token}{body}x".encode())
    assert loaded.call(b"fast")[1] == b"fast"
    for connection in slow[::2]:
        assert statuses(connection.recv(1 << 16)) == (408,)
    assert loaded.call(b"fast")[1] == b"fast"
    for connection in slow:
        connection.close()
