"""What every invocation of a router works with."""

import asyncio
from collections.abc import Callable

from schemas.events import Event
from services.router.admission import Head
from services.router.framing import Network
from services.router.heads import Heads
from services.router.limits import Limits
from services.router.metrics import Metrics
from services.router.pool import Pool
from services.router.slots import Slots


class Workings:
    """The parts that all invocations share."""

    def __init__(
        self,
        slots: Slots,
        pool: Pool,
        limits: Limits,
        metrics: Metrics,
        emit: Callable[[Event], None],
        trusted: tuple[Network, ...] = (),
    ) -> None:
        self.slots = slots
        self.pool = pool
        self.limits = limits
        self.metrics = metrics
        self.emit = emit
        self.trusted = trusted
        self.state = slots.state
        self.heads: Heads[Head] = Heads()
        """Those of requests that have no body or announce its length, and bring no ids."""
        self.loop = asyncio.get_running_loop()
