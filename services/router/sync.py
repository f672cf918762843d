"""Follow the bus into `State`: what is in force, where it answers, which pods are dead.

The router is ready when it has a complete snapshot of all three, and not
before: half a route table would answer 404 for what exists. After that nothing
but a fact takes anything away. When NATS is gone, or comes back as another one
with an empty store, what is served stays.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from schemas import subjects
from schemas.active import Active
from schemas.endpoints import Endpoint
from schemas.pods import PodFact
from services.bus.connection import Bus
from services.bus.follow import follow
from services.bus.state import Deleted, Entry, Put, Replaced, Snapshot
from services.process import Condition, Process
from services.router.slots import Slots
from services.router.state import State, apply_active, apply_endpoint, apply_pod
from services.router.table import Key

log = logging.getLogger(__name__)

M = TypeVar("M")
Apply = Callable[[State, str, Any], list[Key]]

_KINDS: Final = ("function", "route", "subscription")
_ACTIVE: Final = tuple(subjects.ACTIVE.filter(kind=kind) for kind in _KINDS)


def start(
    process: Process,
    bus: Bus,
    slots: Slots,
    complete: Callable[[], None],
    in_force: Callable[[int], None],
) -> None:
    """Start following.

    `complete` is called once all there is has been read, and `in_force` with the
    sequence up to which ACTIVE is applied.
    """
    missing = {"ACTIVE", "ENDPOINTS", "PODS"}

    def read(stream: str, need: Condition) -> None:
        missing.discard(stream)
        need.met()
        if not missing:
            slots.state.complete = True
            complete()

    for stream, filters, message, apply, applied in (
        ("ACTIVE", _ACTIVE, Active, apply_active, in_force),
        ("ENDPOINTS", (), Endpoint, apply_endpoint, _nobody_asks),
        ("PODS", (), PodFact, apply_pod, _nobody_asks),
    ):
        need = process.ready.needs(stream.lower(), "reading the snapshot")
        reader = Reader(stream, message, apply, slots, applied)
        process.start(
            reader.run(bus, filters, functools.partial(read, stream, need)), f"sync {stream}"
        )


def _nobody_asks(sequence: int) -> None:
    """Take note of nothing: how far these streams are read is nobody's question."""


class Reader:
    """Applies the messages of one stream."""

    def __init__(
        self,
        stream: str,
        message: Any,
        apply: Apply,
        slots: Slots,
        applied: Callable[[int], None],
    ) -> None:
        self._stream = stream
        self._decode = msgspec.json.Decoder(message).decode
        self._apply = apply
        self._slots = slots
        self._applied = applied

    async def run(self, bus: Bus, filters: tuple[str, ...], complete: Callable[[], None]) -> None:
        """Follow the stream for ever, and say when its snapshot is applied."""
        async for update in follow(bus, self._stream, filters):
            match update:
                case Snapshot():
                    self._applied(self._put_all(update))
                    complete()
                case Put(entry):
                    self.put(entry)
                    self._applied(entry.sequence)
                case Deleted(subject, sequence):
                    self._slots.changed(self._apply(self._slots.state, subject, None))
                    self._applied(sequence)
                case Replaced():
                    log.warning(
                        "%s is a new, other stream; what is served stays as it is", self._stream
                    )
            del update  # A snapshot would stay in memory until there is news.

    def _put_all(self, snapshot: Snapshot) -> int:
        """Apply all there is; return the sequence up to which that was."""
        for entry in snapshot.entries:
            self.put(entry)
        return max((entry.sequence for entry in snapshot.entries), default=0)

    def put(self, entry: Entry) -> None:
        """Apply one message. One that cannot be read changes nothing."""
        try:
            fact = self._decode(entry.payload)
        except msgspec.MsgspecError as error:
            log.error(  # noqa: TRY400 - the sentence says it all
                "a message cannot be read and is passed over; what it replaces stands: %s",
                error,
                extra={"subject": entry.subject, "sequence": entry.sequence},
            )
            return
        self._slots.changed(self._apply(self._slots.state, entry.subject, fact))
