"""Put an invocation on the queue, from whatever called for it."""

from typing import Final

import msgspec

from schemas import subjects
from schemas.invocations import Invocation
from services.bus.connection import Bus
from services.bus.errors import BusRefused
from services.bus.publish import publish

_PER_SUBJECT: Final = "per subject"
"""In what NATS says when a subject has the one message that it may have."""


async def enqueue(bus: Bus, invocation: Invocation) -> None:
    """Store an invocation on the queue. One that is there already is stored once.

    Raises:
        BusRefused: the queue is full, or the request is too large.
        BusUnavailable: NATS does not answer; it may be stored yet.
    """
    subject = subjects.INVOCATIONS.subject(
        namespace=invocation.namespace, function=invocation.function, id=invocation.id
    )
    try:
        await publish(
            bus,
            subject,
            msgspec.json.encode(invocation),
            message_id=f"{invocation.id}.{invocation.run}",
        )
    except BusRefused as refused:
        if _PER_SUBJECT not in refused.reason:
            raise
