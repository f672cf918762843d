"""Publish an outcome on a user's subject: stored where a stream captures it, else sent."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import nats.errors
from nats.js import errors as js_errors

from schemas.events import NO_NAMESPACE, Event, new_event
from schemas.specs import check_subject
from services.bus.connection import Bus
from services.bus.errors import BusRefused, BusUnavailable
from services.bus.permissions import APPLICATION, inbox_prefix
from services.bus.publish import publish
from services.router.asynchronous.outlet import Message

log = logging.getLogger(__name__)

_SEND_S: Final = 2.0
_REFUSALS: Final = 5
"""A stream that is not ours and takes nothing must not hold up a function for ever."""
_INBOXES: Final = ("_INBOX.", f"{inbox_prefix(APPLICATION)}.")
"""Where clients of NATS take answers, and where those do that have a user for applications."""


class Outbox:
    """Sends to subjects outside the platform."""

    def __init__(self, bus: Bus, emit: Callable[[Event], None]) -> None:
        self._bus = bus
        self._emit = emit

    async def send(self, message: Message) -> None:
        """Publish `message`. Waits for NATS; gives up only what is refused again and again."""
        refusals = 0
        while True:
            try:
                if await self._captured(message.subject):
                    await publish(
                        self._bus, message.subject, message.body,
                        message_id=message.id, headers=message.headers,
                    )  # fmt: skip
                else:
                    await self._cast(message)
            except BusUnavailable:
                await asyncio.sleep(1.0)
            except BusRefused as refused:
                refusals += 1
                if refusals >= _REFUSALS:
                    self._give_up(message, refused)
                    return
                await asyncio.sleep(1.0)
            else:
                return

    async def _captured(self, subject: str) -> bool:
        """Return whether a stream keeps what is published on `subject`."""
        try:
            async with self._bus.bounded(_SEND_S):
                await self._bus.js.find_stream_name_by_subject(subject)
        except js_errors.NotFoundError:
            return False
        except (nats.errors.Error, js_errors.APIError, TimeoutError) as error:
            raise BusUnavailable(f"looking for a stream of {subject}", _SEND_S) from error
        return True

    async def _cast(self, message: Message) -> None:
        headers = {**message.headers, "Nats-Msg-Id": message.id}
        try:
            async with self._bus.bounded(_SEND_S):
                await self._bus.nc.publish(message.subject, message.body, headers=headers)
                await self._bus.nc.flush()
        except (nats.errors.Error, TimeoutError) as error:
            raise BusUnavailable(f"publishing on {message.subject}", _SEND_S) from error
        if denial := self._bus.denial(message.subject):
            raise BusRefused(f"publishing on {message.subject}", denial)

    def _give_up(self, message: Message, refused: BusRefused) -> None:
        self._emit(
            new_event(
                "router", NO_NAMESPACE, "invocation", message.headers["x-invocation"],
                "outcome-refused", f"an outcome was not taken: {refused}", level="error",
                subject=message.subject,
            )
        )  # fmt: skip
        log.error("an outcome was not taken: %s", refused)


def may_reply(subject: str) -> bool:
    """Return whether an answer may go to `subject`, which whoever sent the question chose."""
    if subject.startswith(_INBOXES):
        return True
    try:
        check_subject(subject, wildcards=False)
    except ValueError:
        return False
    return True
