"""The builder's one subject, `wasmfn.build`: a request for a build, and its reply.

FastStream decodes, validates and replies. What it does not do by itself is
answer a request that it cannot decode; without an answer the requester would
learn of its mistake by a timeout. And it works on the bus's connection instead
of one of its own: that one heals, reads a changed token and says what it lacks.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Final

import msgspec
from fast_depends.msgspec import MsgSpecSerializer
from faststream import ExceptionMiddleware
from faststream.nats import NatsBroker
from nats.aio.client import Client

from schemas import subjects
from schemas.builds import BuildReply, BuildRequest
from services.bus.connection import Bus, settle
from services.bus.errors import BusError

QUEUE_GROUP: Final = "builder"
WORKERS: Final = 16
"""Requests that are answered at a time; each waits for NATS once or twice."""


class BusBroker(NatsBroker):
    """A broker on the connection of `bus`, which it neither makes nor closes."""

    def __init__(self, bus: Bus, **options: Any) -> None:
        super().__init__(**options)
        self._bus = bus

    async def _connect(self) -> Client:
        self.config.connect(self._bus.nc)
        return self._bus.nc

    async def stop(
        self,
        exc_type: type[BaseException] | None = None,
        exc_val: BaseException | None = None,
        exc_tb: TracebackType | None = None,
    ) -> None:
        """Take no more requests, and let those in flight end."""
        # Past NatsBroker's own, which goes on to close the connection.
        await super(NatsBroker, self).stop(exc_type, exc_val, exc_tb)


@contextlib.asynccontextmanager
async def answering(
    bus: Bus, handle: Callable[[BuildRequest], Awaitable[BuildReply]]
) -> AsyncIterator[None]:
    """Answer requests for builds with `handle` while inside; the server knows it by then."""
    refuse = ExceptionMiddleware(
        publish_handlers={
            msgspec.ValidationError: _invalid,
            BusError: _unavailable,
        }
    )
    broker = BusBroker(
        bus,
        serializer=MsgSpecSerializer(use_fastdepends_errors=False),
        middlewares=(refuse,),
        logger=None,
    )

    @broker.subscriber(subjects.BUILD_REQUESTS.subject(), queue=QUEUE_GROUP, max_workers=WORKERS)
    async def on_request(request: BuildRequest) -> BuildReply:
        return await handle(request)

    async with broker:
        await broker.start()
        await settle(bus.nc)
        yield


def _invalid(error: msgspec.ValidationError) -> BuildReply:
    # FastStream validates the handler's parameters, so its paths begin with their name.
    reason = str(error).replace("`$.request", "`$")
    return BuildReply(error=f"this is no build request: {reason}")


def _unavailable(error: BusError) -> BuildReply:
    return BuildReply(error=f"the build was not taken; ask again: {error}")
