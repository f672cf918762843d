"""Put the parts together: one router's share of what nobody waits for."""

import asyncio
import functools
from collections.abc import Callable

from schemas.events import Event
from services.bus.connection import Bus
from services.router.asynchronous import broadcast
from services.router.asynchronous.accept import Acceptance
from services.router.asynchronous.admin import DeadPages
from services.router.asynchronous.cancel import Cancellations
from services.router.asynchronous.dead import DeadLetters
from services.router.asynchronous.delivery import Deliveries
from services.router.asynchronous.execution import Executor
from services.router.asynchronous.interruption import Interruptions
from services.router.asynchronous.lanes import Lanes
from services.router.asynchronous.metrics import AsyncMetrics
from services.router.asynchronous.outbox import Outbox
from services.router.asynchronous.room import Room
from services.router.asynchronous.store import Store, body_room
from services.router.asynchronous.subscriptions import Subscriptions
from services.router.limits import Limits
from services.router.pool import Pool
from services.router.settings import RouterSettings
from services.router.slots import Slots


class Asynchronous:
    """Accepts invocations, and runs what any router has accepted."""

    def __init__(
        self,
        bus: Bus,
        slots: Slots,
        pool: Pool,
        limits: Limits,
        emit: Callable[[Event], None],
        settings: RouterSettings,
    ) -> None:
        metrics = AsyncMetrics()
        store = Store(bus, settings.dead_letter_s)
        self._room = Room(bus)
        look = slots.state.functions.get
        executor = Executor(
            slots, pool, limits, lambda: body_room(bus, settings.async_answer_bytes)
        )
        outbox = Outbox(bus, emit)
        self._bus = bus
        self._interruptions = Interruptions()
        deliveries = Deliveries(store, executor, outbox.send, metrics, emit, self._interruptions)
        self.lanes = Lanes(bus, store, deliveries, look, settings.async_concurrency)
        self._letters = DeadLetters(bus, store, emit, self.lanes.wake)
        self.admin_routes = DeadPages(self._letters).routes
        self._cancellations = Cancellations(
            bus, store, look, metrics, emit, functools.partial(broadcast.tell, bus)
        )
        self.acceptance = Acceptance(
            bus, store, self._room, self._cancellations.cancel, metrics, emit, self.lanes.wake,
            settings.async_body_bytes,
        )  # fmt: skip
        self._subscriptions = Subscriptions(
            bus,
            store,
            self._room,
            slots.state.subscriptions,
            metrics,
            emit,
            self.lanes.wake,
            lambda: self.acceptance.body_bytes,
        )

    async def work(self, complete: asyncio.Event) -> None:
        """Run what is queued, for ever, once it is known what is in force."""
        await complete.wait()
        async with (
            self._letters.listening(),
            self._cancellations.listening(),
            broadcast.hearing(self._bus, self._interruptions),
            asyncio.TaskGroup() as parts,
        ):
            parts.create_task(self._room.watch(), name="room")
            parts.create_task(self.lanes.survey(), name="survey")
            parts.create_task(self._subscriptions.run(), name="subscriptions")
