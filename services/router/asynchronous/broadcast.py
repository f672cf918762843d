"""Tell every router that an attempt is not wanted any more: one of them may be making it.

Nothing is stored: the word that it is unwanted is at its location. A router that
is cut off, and does not hear of it, lets the attempt end by itself and makes no
other one.
"""

import contextlib
import logging
from collections.abc import AsyncIterator

import msgspec
import nats.errors
from nats.aio.msg import Msg

from schemas.invocations import Interrupt
from schemas.subjects import INTERRUPTS
from schemas.unreadable import UNREADABLE
from services.bus.connection import Bus
from services.router.asynchronous.interruption import Interruptions
from services.router.asynchronous.store import Name

log = logging.getLogger(__name__)


async def tell(bus: Bus, name: Name, run: int) -> None:
    """Have this run of an invocation interrupted, wherever that is. Does not raise."""
    namespace, function, invocation = name
    subject = INTERRUPTS.subject(namespace=namespace, function=function, id=invocation)
    try:
        await bus.nc.publish(subject, msgspec.json.encode(Interrupt(run)))
    except nats.errors.Error as error:
        log.info("nobody is told that an attempt is not wanted: %s", error)


@contextlib.asynccontextmanager
async def hearing(bus: Bus, interruptions: Interruptions) -> AsyncIterator[None]:
    """Interrupt what routers tell of while inside."""

    async def take(msg: Msg) -> None:
        tokens = INTERRUPTS.parse(msg.subject)
        try:
            told = msgspec.json.decode(msg.data, type=Interrupt)
        except UNREADABLE:
            return
        if tokens is not None:
            name = (tokens["namespace"], tokens["function"], tokens["id"])
            interruptions.interrupt(name, told.run)

    subscription = await bus.nc.subscribe(INTERRUPTS.wildcard, cb=take)
    try:
        yield
    finally:
        with contextlib.suppress(nats.errors.Error):
            await subscription.unsubscribe()
