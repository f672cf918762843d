"""Answer what people ask of the routers over the bus: any router will do, and a few at once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeVar

import msgspec
import nats.errors
from nats.aio.msg import Msg

from schemas.invocations import CancelRequest, DeadRequest
from schemas.subjects import Template
from schemas.unreadable import UNREADABLE
from services.bus.connection import Bus
from services.router.asynchronous.store import Name

_QUEUE: Final = "router"
_AT_ONCE: Final = 64

Q = TypeVar("Q", DeadRequest, CancelRequest)
R = TypeVar("R", bound=msgspec.Struct)


@contextlib.asynccontextmanager
async def answering(
    bus: Bus,
    template: Template,
    asked: type[Q],
    act: Callable[[Name, Q], Awaitable[R]],
    refusal: Callable[[str], R],
) -> AsyncIterator[None]:
    """Answer requests about invocations while inside.

    Args:
        bus: the connection.
        template: of the subject, which names a namespace and a function.
        asked: what a request is.
        act: does what is asked, and returns the answer. Does not raise.
        refusal: makes an answer of the sentence that says why it cannot be asked.
    """
    tasks: set[asyncio.Task[None]] = set()

    async def take(msg: Msg) -> None:
        if len(tasks) >= _AT_ONCE:
            await msg.respond(msgspec.json.encode(refusal("too much is asked at once; ask again")))
            return
        task = asyncio.create_task(answer(msg))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def answer(msg: Msg) -> None:
        tokens = template.parse(msg.subject)
        try:
            request = msgspec.json.decode(msg.data, type=asked)
        except UNREADABLE as error:
            reply = refusal(f"that is no such request: {error}")
        else:
            assert tokens is not None  # noqa: S101 - it came by a subscription to this family
            reply = await act((tokens["namespace"], tokens["function"], request.id), request)
        with contextlib.suppress(nats.errors.Error):
            await msg.respond(msgspec.json.encode(reply))

    subscription = await bus.nc.subscribe(template.wildcard, queue=_QUEUE, cb=take)
    try:
        yield
    finally:
        with contextlib.suppress(nats.errors.Error):
            await subscription.unsubscribe()
        for task in tuple(tasks):
            task.cancel()
