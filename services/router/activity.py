"""Report each second what is in flight and parked: it is by this that functions scale up.

A report is a hint and may be lost. While NATS is away none is sent, so that no
old ones pile up for its return.
"""

import asyncio
import logging

import msgspec
import nats.errors

from schemas import subjects
from schemas.control import Activity, FunctionActivity
from services.bus.connection import Bus
from services.router.slots import Slots

log = logging.getLogger(__name__)

_EVERY_S = 1.0


def read_activity(router: str, slots: Slots) -> Activity:
    """Return what this router has at this moment; functions without any are left out."""
    parked = dict(slots.lot.functions())
    return Activity(
        router,
        [
            FunctionActivity(*key, slots.in_flight.get(key, 0), parked.get(key, 0))
            for key in dict.fromkeys((*slots.in_flight, *parked))
        ],
    )


async def report(bus: Bus, router: str, slots: Slots) -> None:
    """Publish the activity each second, for ever; an empty one once, then silence."""
    subject = subjects.ACTIVITY.subject(router=router)
    told = False
    while True:
        await asyncio.sleep(_EVERY_S)
        activity = read_activity(router, slots)
        if not bus.connected or not (activity.functions or told):
            continue
        try:
            await bus.nc.publish(subject, msgspec.json.encode(activity))
        except nats.errors.Error as error:
            log.warning("the activity was not reported: %s", error)
        else:
            told = bool(activity.functions)
