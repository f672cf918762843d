"""Read what was decided in earlier terms, or write it again if NATS has lost it.

What was in force, how far each object was and where instances answer is the
leaders' own word. Once the fences stand nobody else writes it, so that it is read
once and known from then on.
"""

import logging
import time
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Final, TypeVar

import msgspec

from schemas.active import Active
from schemas.endpoints import Endpoint
from schemas.status import Status
from schemas.streams import ACTIVE, ENDPOINTS, STATUS
from schemas.unreadable import UNREADABLE
from services.bus.connection import Bus
from services.bus.follow import follow
from services.bus.state import Entry, Snapshot, Update
from services.scheduler.function import Instance
from services.scheduler.memory import Memory, active_again, endpoints_again
from services.scheduler.record import WITHOUT_SPEC, Record, active_subject
from services.scheduler.world import World

log = logging.getLogger(__name__)

_REQUEST_S: Final = 2.0
T = TypeVar("T")

_ACTIVE: Final[msgspec.json.Decoder[Active]] = msgspec.json.Decoder(Active)
_STATUS: Final = msgspec.json.Decoder(Status)
_ENDPOINT: Final = msgspec.json.Decoder(Endpoint)


async def recall(
    bus: Bus, world: World, record: Record, memory: Memory, on_loss: Callable[[str], None]
) -> None:
    """Begin the term and fill `world` with what was decided before; may be repeated.

    Call `on_loss` with what there is to say if NATS has lost its data.

    Raises:
        DeposedError: somebody leads in a later term.
        BusError, nats.errors.Error, TimeoutError: NATS does not answer (yet).
    """
    await record.begin()
    created = await _created(bus, ACTIVE.name)
    if (lost := memory.lost(created)) is not None:
        on_loss(await _write_again(bus, record, lost))
    for entry in await _snapshot(bus, ACTIVE.name):
        if (active := decode(entry, _ACTIVE)) is not None:
            world.put_active(active)
            if WITHOUT_SPEC in entry.headers:
                kind = str(active.__struct_config__.tag)
                world.bereft.add((kind, active.namespace, active.name))
    for entry in await _snapshot(bus, STATUS.name):
        if (status := decode(entry, _STATUS)) is not None:
            world.statuses[status.kind, status.namespace, status.name] = status
    now = time.monotonic()
    for entry in await _snapshot(bus, ENDPOINTS.name):
        if (endpoint := decode(entry, _ENDPOINT)) is not None:
            function = world.function((endpoint.namespace, endpoint.function))
            function.instances[endpoint.instance] = Instance(
                endpoint=endpoint, published=True, loaded=now, since=now
            )
    memory.keep(world, created)


async def _write_again(bus: Bus, record: Record, lost: World) -> str:
    """Write what was in force, and where it serves, on streams that were made anew."""
    there = {entry.subject for entry in await _snapshot(bus, ACTIVE.name)}
    active = [one for one in active_again(lost) if active_subject(one) not in there]
    endpoints = list(endpoints_again(lost))
    for endpoint in endpoints:
        await record.publish_endpoint(endpoint)
    for one in active:
        await record.activate(one, without_spec=True)
    return (
        f"NATS has lost its data; {len(active)} objects that were in force and"
        f" {len(endpoints)} endpoints were written again from memory and serve on;"
        " specs, uploads and queued invocations could not be: publish the specs again, as by"
        " `wasmfn apply`"
    )


async def _created(bus: Bus, stream: str) -> datetime | None:
    """Return when a stream was made."""
    async with bus.bounded(_REQUEST_S):
        return (await bus.js.stream_info(stream)).created


async def _snapshot(bus: Bus, stream: str) -> tuple[Entry, ...]:
    updates: AsyncIterator[Update] = follow(bus, stream)
    try:
        async for update in updates:
            if isinstance(update, Snapshot):
                return update.entries
    finally:
        await updates.aclose()  # type: ignore[attr-defined] # it is a generator
    return ()


def decode(entry: Entry, decoder: msgspec.json.Decoder[T]) -> T | None:
    """Return what an entry holds, or None, told in the log, if it is nothing of ours."""
    try:
        return decoder.decode(entry.payload)
    except UNREADABLE as error:
        log.error("ignoring what is on %s: %s", entry.subject, error)  # noqa: TRY400
        return None
