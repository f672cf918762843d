"""Write down what is decided: what is in force, where it answers, how far it is, and why.

The bus is written first and the world changed when it has stored it: when it does
not, the key fails and is planned anew. Nothing is written by a leader whose term
is over, even in a process that was paused meanwhile: it looks at its lease, and NATS at
the fence of the stream (`services.bus.fence`).
"""

import contextlib
import hashlib
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from schemas import subjects
from schemas.active import Active, ActiveEnvironment, ActiveTimer
from schemas.endpoints import Endpoint
from schemas.events import Level, new_event
from schemas.invocations import Invocation
from schemas.status import Phase, Status
from schemas.streams import ACTIVE, ENDPOINTS, STATUS, STREAMS, TIMERS, Stream
from schemas.timers import TimerMark
from services.bus.connection import Bus
from services.bus.enqueue import enqueue
from services.bus.errors import Fenced
from services.bus.events import EventLog
from services.bus.fence import Fence
from services.bus.lease import Reign
from services.bus.publish import publish, raise_fence, tombstone
from services.scheduler.audience import Audience
from services.scheduler.world import FunctionName, Object, World

log = logging.getLogger(__name__)

WITHOUT_SPEC: Final = "Wasmfn-Without-Spec"
"""NATS header of what is in force though its spec was lost with the data of NATS."""
ROUTERS_S: Final = 0.5
"""How long routers are waited for before an object is called active all the same."""


class DeposedError(Exception):
    """The term is over: what was decided is no longer ours to do."""


def spec_correlation(key: Object, revision: int) -> str:
    """Return the correlation id of one revision of an object.

    It is made of what everyone knows, so a new leader goes on with the same one.
    """
    text = "/".join((*key, str(revision)))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def active_subject(active: Active) -> str:
    """Return the subject on which an object in force stands."""
    kind = str(active.__struct_config__.tag)
    return subjects.ACTIVE.subject(kind=kind, namespace=active.namespace, name=active.name)


class Record:
    """Writes in the name of one term."""

    def __init__(
        self, bus: Bus, events: EventLog, reign: Reign, world: World, audience: Audience
    ) -> None:
        self._audience = audience
        self._in_force = 0
        self._fences: dict[str, Fence] = {}
        self._bus = bus
        self._events = events
        self._reign = reign
        self._world = world

    def check(self) -> None:
        """Raise DeposedError unless the term holds."""
        if not self._reign.holds:
            raise DeposedError(f"term {self._reign.term} is over")

    async def begin(self) -> None:
        """Keep everyone out who led before. After this, what is read stays as it is.

        Raises:
            DeposedError: somebody leads in a later term.
            BusError: NATS does not do it (yet).
        """
        for stream in STREAMS:
            if stream.fenced:
                with self._as_long_as_we_lead():
                    self._fences[stream.name] = await raise_fence(
                        self._bus, stream, self._reign.term
                    )

    async def activate(self, active: Active, *, without_spec: bool = False) -> None:
        """Put an object in force; `without_spec` if its spec was lost with the data of NATS."""
        headers = {WITHOUT_SPEC: "1"} if without_spec else None
        sequence = await self._put(ACTIVE, active_subject(active), active, headers)
        if not isinstance(active, (ActiveEnvironment, ActiveTimer)):  # no business of a router
            self._in_force = sequence

    async def deactivate(self, key: Object) -> None:
        """Take an object out of force."""
        kind, namespace, name = key
        subject = subjects.ACTIVE.subject(kind=kind, namespace=namespace, name=name)
        await self._delete(ACTIVE, subject)

    async def publish_endpoint(self, endpoint: Endpoint) -> None:
        """Tell routers of an instance."""
        await self._put(ENDPOINTS, _endpoint_subject(endpoint), endpoint)

    async def withdraw_endpoint(self, endpoint: Endpoint, reason: str) -> None:
        """Take an instance from the routers."""
        await self._delete(ENDPOINTS, _endpoint_subject(endpoint))
        self.event(
            ("function", endpoint.namespace, endpoint.function),
            "endpoint-withdrawn",
            f"the endpoint {endpoint.instance} at {endpoint.ip}:{endpoint.port} was withdrawn:"
            f" {reason}",
            instance=endpoint.instance,
            revision=endpoint.revision,
        )

    async def set_status(
        self,
        key: Object,
        phase: Phase,
        message: str,
        *,
        observed: int,
        active: int | None,
        field: str | None = None,
    ) -> None:
        """Say how far an object is, if that is news; tell the event log when the phase changes."""
        kind, namespace, name = key
        before = self._world.statuses.get(key)
        status = Status(
            kind=kind,
            namespace=namespace,
            name=name,
            phase=phase,
            observed_revision=observed,
            active_revision=active,
            message=message,
            time=datetime.now(UTC),
            field=field,
            correlation=spec_correlation(key, observed),
        )
        if before is not None and msgspec.structs.replace(before, time=status.time) == status:
            return
        if phase == "active" and not await self._audience.reached(self._in_force, ROUTERS_S):
            log.warning("a router is slow to apply what is in force; %s is called active", name)
        subject = subjects.STATUS.subject(kind=kind, namespace=namespace, name=name)
        await self._put(STATUS, subject, status)
        self._world.statuses[key] = status
        if before is None or (before.phase, before.message, before.observed_revision) != (
            phase,
            message,
            observed,
        ):
            level: Level = "error" if phase in ("rejected", "failed") else "info"
            what = f"spec-{phase}" if phase == "rejected" else phase
            self.event(
                key,
                what,
                f"{kind} {name} (revision {observed}): {message}",
                level=level,
                correlation=status.correlation,
                revision=observed,
                field=field,
            )

    async def clear_status(self, key: Object, message: str) -> None:
        """Say nothing of an object any more, which is gone."""
        kind, namespace, name = key
        subject = subjects.STATUS.subject(kind=kind, namespace=namespace, name=name)
        await self._delete(STATUS, subject)
        self._world.statuses.pop(key, None)
        self.event(key, "deleted", message)

    def event(
        self,
        key: Object,
        what: str,
        message: str,
        *,
        level: Level = "info",
        correlation: str = "",
        duration_ms: float | None = None,
        **fields: Any,
    ) -> None:
        """Tell the event log."""
        kind, namespace, name = key
        if not correlation and (spec := self._world.specs.get(key)) is not None:
            correlation = spec_correlation(key, spec.revision)
        self._events.emit(
            new_event(
                "scheduler",
                namespace,
                kind,
                name,
                what,
                message,
                level=level,
                correlation=correlation,
                duration_ms=duration_ms,
                **fields,
            )
        )

    async def enqueue(self, invocation: Invocation) -> None:
        """Have a function called. The same invocation is stored once."""
        self.check()
        await enqueue(self._bus, invocation)

    async def mark_timer(self, name: FunctionName, mark: TimerMark) -> None:
        """Say up to when the calls of a timer are made."""
        await self._put(TIMERS, subjects.TIMERS.subject(namespace=name[0], name=name[1]), mark)

    async def forget_timer(self, name: FunctionName) -> None:
        """Say nothing of a timer any more, which is gone."""
        await self._delete(TIMERS, subjects.TIMERS.subject(namespace=name[0], name=name[1]))

    async def _put(
        self,
        stream: Stream,
        subject: str,
        message: msgspec.Struct,
        headers: dict[str, str] | None = None,
    ) -> int:
        self.check()
        with self._as_long_as_we_lead():
            return await publish(
                self._bus,
                subject,
                msgspec.json.encode(message),
                fence=self._fences[stream.name],
                headers=headers,
            )

    async def _delete(self, stream: Stream, subject: str) -> None:
        self.check()
        with self._as_long_as_we_lead():
            await tombstone(self._bus, subject, fence=self._fences[stream.name])

    @contextlib.contextmanager
    def _as_long_as_we_lead(self) -> Iterator[None]:
        """Raise DeposedError, and lead no more, where NATS says that another one does."""
        try:
            yield
        except Fenced as error:
            log.warning("%s", error)
            self._reign.resign(error.later)
            raise DeposedError(str(error)) from error


def _endpoint_subject(endpoint: Endpoint) -> str:
    return subjects.ENDPOINTS.subject(
        namespace=endpoint.namespace, function=endpoint.function, instance=endpoint.instance
    )
