"""Raw HTTP servers in the place of keepers' children, which misbehave as they are told."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from schemas.endpoints import Endpoint
from schemas.names import new_instance_id, new_token
from tests.services.router.clients import Peer

Handler = Callable[["Call"], Awaitable[None]]


class Call:
    """A request as an instance got it, and the connection to answer it on."""

    def __init__(
        self, instance: "Instance", peer: Peer, first: str, headers: list[tuple[str, str]]
    ) -> None:
        self.instance = instance
        self.peer = peer
        self.method, self.target, _ = first.split(" ")
        self.headers = headers
        self.header = dict(headers)
        self.body = b""

    async def read_body(self) -> bytes:
        if self.header.get("transfer-encoding") == "chunked":
            self.body = await self.peer.chunks()
        else:
            self.body = await self.peer.reader.readexactly(
                int(self.header.get("content-length", 0))
            )
        return self.body

    async def send(self, data: bytes) -> None:
        await self.peer.send(data)

    async def answer(self, body: bytes = b"ok", status: str = "200 OK", headers: str = "") -> None:
        head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
        await self.send(head.encode() + body)

    async def misdirected(self, reason: str) -> None:
        await self.answer(b"", "421 Misdirected Request", f"x-wasmfn-reason: {reason}\r\n")

    def reset(self) -> None:
        """End the connection as a killed process does."""
        self.peer.writer.transport.abort()


async def echo(call: Call) -> None:
    await call.answer(await call.read_body())


class Instance:
    """A raw HTTP server in the place of a keeper's child. `handler` says how it behaves."""

    def __init__(self, function: str, handler: Handler, **fields: Any) -> None:
        self.handler = handler
        self.calls: list[Call] = []
        self.connections = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.fields = {
            "namespace": "default",
            "function": function,
            "instance": new_instance_id(),
            "ip": "127.0.0.1",
            "port": 0,
            "pod": "pod-1",
            "node": "local",
            "revision": 1,
            "concurrency": 4,
            "token": new_token(),
            "time": datetime.now(UTC),
        } | fields

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(**self.fields)

    async def start(self) -> "Instance":
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.fields["port"], limit=1 << 20
        )
        self.fields["port"] = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Die: nothing listens any more, and every connection is reset."""
        if self._server is not None:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        peer = Peer(reader, writer)
        try:
            while True:
                raw = await reader.readuntil(b"\r\n\r\n")
                first, *lines = raw.decode("latin-1")[:-4].split("\r\n")
                headers = [
                    (n.lower(), v.strip()) for n, _, v in (li.partition(":") for li in lines)
                ]
                call = Call(self, peer, first, headers)
                self.calls.append(call)
                await self.handler(call)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()
