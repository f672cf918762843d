"""Whether there is room for what is accepted to end: for its result, or its dead letter.

What is accepted must be able to come to its end. So nothing more is accepted
when the streams that hold the ends are nearly full: what is left in them is for
what was accepted before. Results and dead letters expire, dead letters are pruned,
and then it goes on by itself.
"""

import asyncio
import logging
from typing import Final

import nats.errors
from nats.js import errors as js_errors

from schemas.streams import DEAD, RESULTS
from services.bus.connection import Bus
from services.bus.errors import BusRefused

log = logging.getLogger(__name__)

_LOOK_S: Final = 1.0
_REQUEST_S: Final = 2.0
NEARLY_FULL: Final = 0.95
_FULL: Final = {
    RESULTS.name: "the results fill their store; send it again when some have expired",
    DEAD.name: "the dead letters fill their store; `wasmfn dead prune` makes room",
}


class Room:
    """What is known of the room in the streams."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._full: dict[str, bool] = {}

    @property
    def lack(self) -> str:
        """Why nothing more is to be accepted, as a sentence; empty if there is room."""
        return next((said for stream, said in _FULL.items() if self._full.get(stream)), "")

    def claim(self, doing: str) -> None:
        """Raise BusRefused, which says why, if there is no room."""
        if lack := self.lack:
            raise BusRefused(doing, lack)

    async def watch(self) -> None:
        """Look each second, for ever. What was found stands while NATS does not answer."""
        while True:
            await self._bus.wait_connected()
            for stream in _FULL:
                try:
                    async with self._bus.bounded(_REQUEST_S):
                        info = await self._bus.js.stream_info(stream)
                except (nats.errors.Error, js_errors.APIError, TimeoutError) as error:
                    log.debug("how full %s is cannot be seen: %s", stream, error)
                    continue
                most = info.config.max_bytes or 0
                full = most > 0 and info.state.bytes > NEARLY_FULL * most
                if full != self._full.get(stream, False):
                    log.warning("%s: %s", stream, _FULL[stream] if full else "there is room again")
                self._full[stream] = full
            await asyncio.sleep(_LOOK_S)
