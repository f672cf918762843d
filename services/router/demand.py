"""Ask the leading scheduler for an endpoint, over core NATS, until it answers or time is up.

The scheduler may be away, electing a leader or restarting: no responders and a
lost answer are both asked again, with a pause that grows and has jitter, so
that a thousand routers do not ask in step.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import nats.errors

from schemas import subjects
from schemas.control import DemandRefused, DemandReply, DemandRequest
from services.bus.connection import Bus
from services.router.table import Key

log = logging.getLogger(__name__)

Ask = Callable[[Key, DemandRequest], Awaitable[DemandReply]]
"""Returns the scheduler's answer. Does not raise: what fails is a `DemandRefused`."""

_ATTEMPT_S: Final = 5.0
_PAUSE_S: Final = 0.01
_PAUSE_MAX_S: Final = 0.5

_decoder: Final[msgspec.json.Decoder[DemandReply]] = msgspec.json.Decoder(DemandReply)


def asker(bus: Bus) -> Ask:
    """Return the function that asks over `bus`."""

    async def ask(function: Key, request: DemandRequest) -> DemandReply:
        subject = subjects.DEMAND.subject(namespace=function[0], function=function[1])
        payload = msgspec.json.encode(request)
        pause = _PAUSE_S
        reason = "no scheduler is there"
        try:
            async with asyncio.timeout(request.deadline_s):
                while True:
                    try:
                        reply = await bus.nc.request(subject, payload, timeout=_ATTEMPT_S)
                        return _decoder.decode(reply.data)
                    except nats.errors.NoRespondersError:
                        reason = "no scheduler is there"
                    except nats.errors.TimeoutError:
                        reason = "the scheduler does not answer"
                    except msgspec.MsgspecError as error:
                        reason = "the scheduler's answer cannot be read"
                        log.error("%s: %s", reason, error)  # noqa: TRY400 - the sentence says it
                    except nats.errors.Error as error:
                        reason = f"the bus is away ({error or type(error).__name__})"
                    await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
                    pause = min(pause * 2, _PAUSE_MAX_S)
        except TimeoutError:
            return DemandRefused(f"no endpoint could be asked for: {reason}", 1.0)

    return ask
