"""A FastStream broker for request/reply subjects, on the connection that a service has already.

A connection of its own would need the credentials again, heal by other rules,
and say nothing of what NATS denies. Imported only where it is used: FastStream
costs a tenth of a second at start.
"""

from types import TracebackType
from typing import Any

from fast_depends.msgspec import MsgSpecSerializer
from faststream.nats import NatsBroker
from nats.aio.client import Client

from services.bus.connection import Bus, settle


class BusBroker(NatsBroker):
    """A broker on the connection of `bus`, which it neither makes nor closes.

    It decodes with msgspec and says what is wrong in msgspec's words. While it
    is entered (`async with`) its subscribers are known to the server.
    """

    def __init__(self, bus: Bus, **options: Any) -> None:
        super().__init__(
            serializer=MsgSpecSerializer(use_fastdepends_errors=False), logger=None, **options
        )
        self._bus = bus

    async def _connect(self) -> Client:
        self.config.connect(self._bus.nc)
        return self._bus.nc

    async def start(self) -> None:
        """Begin to take requests; the server knows of it when this returns."""
        await super().start()
        await settle(self._bus.nc)

    async def stop(
        self,
        exc_type: type[BaseException] | None = None,
        exc_val: BaseException | None = None,
        exc_tb: TracebackType | None = None,
    ) -> None:
        """Take no more requests, and let those in flight end."""
        # Past NatsBroker's own, which goes on to close the connection.
        await super(NatsBroker, self).stop(exc_type, exc_val, exc_tb)
