import asyncio
import socket
from typing import Self

import pytest

from services.podwatch.probe import ProbeError, ask, pause_s, until_connected, until_ready

ANSWER = b'{"keeper":"u1","boot":"b","engine":"e","capacity":4,"loaded":0}'


def http(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body)


class Answering:
    """A server that gives one answer after another, the last one for ever."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        writer.write(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
        await writer.drain()
        writer.close()


async def test_the_health_of_a_keeper_is_read():
    async with Answering(http(ANSWER)) as server:
        health = await ask("127.0.0.1", server.port)
    assert (health.keeper, health.boot, health.engine, health.capacity) == ("u1", "b", "e", 4)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        http(ANSWER, b"503 Service Unavailable"),
        http(b"{}"),
        http(b"\xff"),
        http(ANSWER.replace(b"u1", b"\xff")),
        http(ANSWER[:-1] + b',"x":' + b"[" * 5000),
        http(b"x" * 20_000),
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 10_000,
    ],
    ids=[
        "nothing", "no-http", "status", "other-json", "no-json", "no-utf-8", "deep", "large",
        "endless-head",
    ],
)  # fmt: skip
async def test_whatever_is_no_keeper_is_a_probe_error(answer):
    async with Answering(answer) as server:
        with pytest.raises(ProbeError):
            await ask("127.0.0.1", server.port)


async def test_a_silent_listener_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(ProbeError):
        await ask("127.0.0.1", listener.getsockname()[1], timeout_s=0.02)


async def test_a_keeper_is_awaited_through_refusals_errors_and_strangers():
    stranger = ANSWER.replace(b"u1", b"u2")
    async with Answering(http(b"", b"503 x"), http(stranger), http(ANSWER)) as server:
        assert (await until_ready("u1", "127.0.0.1", server.port)).keeper == "u1"
        assert server.asked == 3


async def test_a_held_connection_is_answered_without_asking_again():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        waiting = asyncio.create_task(until_ready("u1", "127.0.0.1", port))
        listener.settimeout(30)
        connection, _ = await asyncio.to_thread(listener.accept)
        with connection:
            connection.sendall(http(ANSWER))
            assert (await waiting).boot == "b"


def test_a_keeper_is_tried_often_at_first_and_ever_slower():
    assert [pause_s(t) for t in (0.0, 0.016, 0.16, 10.0, 59.0, 60.0)] == [
        0.002, 0.002, 0.02, 0.1, 0.1, 1.0,
    ]  # fmt: skip


async def test_a_port_is_connected_to_as_soon_as_it_listens_and_left_in_order():
    ends: asyncio.Queue[bytes] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.put_nowait(await reader.read())
        writer.close()

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        probing = asyncio.create_task(until_connected(*listener.getsockname()))
        await asyncio.sleep(0)
        assert not probing.done()
        async with await asyncio.start_server(serve, sock=listener), asyncio.timeout(30):
            await probing
            assert await ends.get() == b""
