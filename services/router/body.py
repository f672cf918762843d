"""A request's body on its way in: metered, bounded in time, its beginning kept.

A body that ends within `REPLAY_BYTES` is read whole before an endpoint is
chosen. So a slow client holds no slot, and the call can be made again.
"""

# ruff: noqa: N818 - the names say what happened; a suffix would add nothing

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from services.router.framing import Length
from services.router.limits import REPLAY_BYTES, BodyMeter, Limits
from services.router.problems import Problem

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class BodyRefused(Exception):
    """The body cannot be taken as it comes."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(problem.detail)


def too_large(limit: int) -> BodyRefused:
    """Return the refusal of a body above the function's limit."""
    detail = f"the function takes bodies of up to {limit} bytes; send less, or raise"
    return BodyRefused(Problem(413, detail + " `limits.body_bytes`"))


class RequestBody:
    """The body of one request."""

    def __init__(self, receive: Receive, length: Length, limit: int, limits: Limits) -> None:
        """Take the ASGI `receive`, how the body is framed, and what the function takes.

        Raises:
            BodyRefused: the announced length is above the limit.
        """
        if length != "chunked" and length > limit:
            raise too_large(limit)
        self.complete = length == 0
        self.ahead = b""
        """What was read before the call was made."""
        self.replayable = True
        """Nothing was read beyond `ahead`."""
        self._receive = receive
        self._meter = BodyMeter(limit)
        self._stall_s = limits.stall_s
        self._until = asyncio.get_running_loop().time() + limits.transfer_s

    async def read_ahead(self) -> None:
        """Read until the body is complete or as much of it is here as will be kept."""
        pieces = []
        size = 0
        while not self.complete and size < REPLAY_BYTES:
            piece = await self._read()
            size += len(piece)
            pieces.append(piece)
        self.ahead = b"".join(pieces)

    async def read_on(self) -> bytes:
        """Return the next piece beyond `ahead`; it may be empty. Ask only while not `complete`."""
        self.replayable = False
        return await self._read()

    async def _read(self) -> bytes:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(min(self._until, loop.time() + self._stall_s)):
                message = await self._receive()
        except TimeoutError:
            detail = "the request's body did not come in time; send it faster"
            raise BodyRefused(Problem(408, detail, close=True)) from None
        if message["type"] == "http.disconnect":
            # The connection's loss cancels the request; this only comes first.
            raise asyncio.CancelledError
        piece: bytes = message.get("body", b"")
        self.complete = not message.get("more_body", False)
        if not self._meter.fits(len(piece)):
            raise too_large(self._meter.limit)
        return piece
