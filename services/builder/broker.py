"""The builder's one subject, `wasmfn.build`: a request for a build, and its reply.

FastStream decodes, validates and replies. What it does not do by itself is
answer a request that it cannot decode; without an answer the requester would
learn of its mistake by a timeout.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import msgspec
from faststream import ExceptionMiddleware

from schemas import subjects
from schemas.builds import BuildReply, BuildRequest
from services.bus.broker import BusBroker
from services.bus.connection import Bus
from services.bus.errors import BusError

QUEUE_GROUP: Final = "builder"
WORKERS: Final = 16
"""Requests that are answered at a time; each waits for NATS once or twice."""


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
    broker = BusBroker(bus, middlewares=(refuse,))

    @broker.subscriber(subjects.BUILD_REQUESTS.subject(), queue=QUEUE_GROUP, max_workers=WORKERS)
    async def on_request(request: BuildRequest) -> BuildReply:
        return await handle(request)

    async with broker:
        await broker.start()
        yield


def _invalid(error: msgspec.ValidationError) -> BuildReply:
    # FastStream validates the handler's parameters, so its paths begin with their name.
    reason = str(error).replace("`$.request", "`$")
    return BuildReply(error=f"this is no build request: {reason}")


def _unavailable(error: BusError) -> BuildReply:
    return BuildReply(error=f"the build was not taken; ask again: {error}")
