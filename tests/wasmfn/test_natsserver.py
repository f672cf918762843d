import asyncio
import socket
import subprocess
import sys
from urllib.parse import urlsplit

import pytest

from wasmfn import natsserver
from wasmfn.keys import ensure_keys
from wasmfn.paths import Layout


def layout(tmp_path) -> Layout:
    made = Layout(tmp_path / 'a "quoted" directory of José')
    made.create()
    ensure_keys(made)
    return made


def test_the_server_is_found_wherever_pip_has_put_it(tmp_path, monkeypatch):
    beside = natsserver.executable()
    # As after `pip install --user`: the interpreter is elsewhere.
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert natsserver.executable().samefile(beside)


def test_without_that_server_it_is_said_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    monkeypatch.setattr(natsserver, "_PACKAGE", "no-such-package")
    elsewhere = tmp_path / "bin"
    elsewhere.mkdir()
    (elsewhere / "nats-server").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(elsewhere))
    with pytest.raises(natsserver.NoServerError, match="pip install"):
        natsserver.executable()


def test_the_port_is_that_of_last_time_unless_it_is_taken(tmp_path):
    place = layout(tmp_path)
    port = natsserver.choose_port(place)
    assert natsserver.choose_port(place) == port
    with socket.create_server(("127.0.0.1", port)):
        other = natsserver.choose_port(place)
    assert other != port
    assert natsserver.choose_port(place) == other


async def test_the_real_server_takes_the_configuration_and_asks_for_the_token(tmp_path):
    place = layout(tmp_path)
    port = natsserver.choose_port(place)
    health = natsserver.configure(place, port)
    server = await asyncio.create_subprocess_exec(
        natsserver.executable(), "-c", natsserver.config_file(place), stderr=subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(10):
            await natsserver.until_answering(natsserver.HOST, port)
            reader, writer = await asyncio.open_connection(natsserver.HOST, port)
            assert b'"auth_required":true' in (info := await reader.readline())
            assert b'"jetstream":true' in info
            writer.write(b'CONNECT {"verbose":false,"auth_token":"wrong"}\r\nPING\r\n')
            assert b"Authorization Violation" in await reader.readline()
            writer.close()
            token = place.token.read_text().strip()
            reader, writer = await asyncio.open_connection(natsserver.HOST, port)
            await reader.readline()
            writer.write(
                b'CONNECT {"verbose":false,"auth_token":"%s"}\r\nPING\r\n' % token.encode()
            )
            assert await reader.readline() == b"PONG\r\n"
            writer.close()
            assert await natsserver.cannot_store(health) == ""
            where = urlsplit(health)
            reader, writer = await asyncio.open_connection(where.hostname, where.port)
            writer.write(b"GET /connz HTTP/1.0\r\n\r\n")
            assert b"404" in await reader.readline(), "only who knows the path is told anything"
            writer.close()
    finally:
        server.terminate()
        await server.wait()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"status":"ok"}', ""),
        ('{"status":"unavailable","error":"JetStream is not current with the meta leader"}', ""),
        ('{"error":"JetStream stream A write error: no space left"}', "no space left"),
        ("[]", ""),
        ("what?", ""),
    ],
)
async def test_only_a_server_that_says_that_it_cannot_write_counts_as_one(answer, expected):
    async def answering(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.0 503 X\r\n\r\n{answer}".encode())
        writer.close()

    async with await asyncio.start_server(answering, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        said = await natsserver.cannot_store(f"http://127.0.0.1:{port}/x/healthz")
    assert (expected in said) if expected else not said
    assert await natsserver.cannot_store(f"http://127.0.0.1:{port}/x/healthz") == ""
