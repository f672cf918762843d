"""A raw HTTP/1.1 client: it sends what it is told, byte for byte."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any


async def eventually(holds: Callable[[], bool | Awaitable[bool]], within_s: float = 30.0) -> None:
    """Wait until `holds()`, which may have to be awaited; fail after `within_s`."""
    async with asyncio.timeout(within_s):
        while True:
            held = holds()
            if held if isinstance(held, bool) else await held:
                return
            await asyncio.sleep(0.002)


class Response:
    """What a client got."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json"
        return json.loads(self.body)


class Peer:
    """A raw HTTP/1.1 client connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        raw = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1")[:-4].split("\r\n")
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return int(first.split()[1]), headers

    async def chunks(self) -> bytes:
        body = b""
        while size := int(await self.reader.readuntil(b"\n"), 16):
            body += await self.reader.readexactly(size)
            await self.reader.readexactly(2)
        await self.reader.readline()
        return body

    async def response(self, method: str = "GET") -> Response:
        status, headers = await self.head()
        if method == "HEAD" or status in (204, 304):
            return Response(status, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            return Response(status, headers, await self.chunks())
        return Response(
            status, headers, await self.reader.readexactly(int(headers["content-length"]))
        )

    async def at_end(self) -> bytes:
        """Return what else comes until the connection ends, cleanly or not."""
        rest = b""
        with contextlib.suppress(ConnectionError):
            while data := await self.reader.read(65536):
                rest += data
        return rest

    def close(self) -> None:
        self.writer.close()


async def connect(port: int) -> Peer:
    return Peer(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 20))


async def request(
    port: int,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    peer = await connect(port)
    try:
        lines = {"host": "example.org"} | (headers or {})
        if body is not None:
            lines["content-length"] = str(len(body))
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in lines.items())
        await peer.send(head.encode() + b"\r\n" + (body or b""))
        async with asyncio.timeout(30):
            return await peer.response(method)
    finally:
        peer.close()
