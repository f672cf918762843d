"""The answer on its way to the client of the ASGI application."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from services.router.asynchronous.door import Reply
from services.router.exchange import Exchange
from services.router.fleet import Fleet
from services.router.framing import Answer, Header
from services.router.limits import Limits
from services.router.problems import Problem, encode
from services.router.protocol import ClientConnection

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Relay:
    """One answer: of an instance, as it comes, or of the router's own."""

    __slots__ = (
        "_client", "_limits", "_loop", "_request_id", "_send", "_until", "dress", "fleet",
        "status",
    )  # fmt: skip

    def __init__(
        self, client: ClientConnection, send: Send, request_id: str, limits: Limits
    ) -> None:
        self.status = 0
        """0 until the answer's head is sent."""
        self.fleet: Fleet | None = None
        """Of the function that answers, once it is known."""
        self.dress: Callable[[list[Header]], None] = lambda headers: None
        """What the route has to add to the headers of any answer."""
        self._client = client
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._send = send
        self._request_id = request_id
        self._until = 0.0

    async def problem(self, problem: Problem) -> None:
        """Send an error answer."""
        headers, body = encode(problem, self._request_id)
        await self._start(problem.status, headers)
        await self._put(body, more=False)

    async def whole(self, answer: Reply) -> None:
        """Send an answer of the router's own."""
        status, headers, body = answer
        length = (b"content-length", b"%d" % len(body))
        await self._start(status, [*headers, length, (b"x-request-id", self._request_id.encode())])
        await self._put(body, more=False)

    async def relay(self, answer: Answer, exchange: Exchange) -> None:
        """Pass the answer on as it comes, as fast as the client takes it.

        Raises:
            CallFailed: the instance broke off.
            TimeoutError: the client does not read.
        """
        headers = [*answer.headers, (b"x-request-id", self._request_id.encode("ascii"))]
        await self._start(answer.status, headers)
        while True:
            data = await exchange.read()
            more = bool(data) and not exchange.ended
            await self._put(data, more=more)
            if not more:
                return

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.status = status
        self.dress(headers)
        self._until = self._loop.time() + self._limits.transfer_s
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _put(self, body: bytes, *, more: bool) -> None:
        message = {"type": "http.response.body", "body": body, "more_body": more}
        if not self._client.flow.write_paused:
            await self._send(message)
            return
        stall = self._loop.time() + self._limits.stall_s
        async with asyncio.timeout_at(min(self._until, stall)):
            await self._send(message)
