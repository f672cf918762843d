"""What the data port needs: accept an invocation, and tell of one.

Accepted is 202 and its location once it is stored, or an answer that says why not.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import msgspec

from schemas.events import Event
from schemas.invocations import Fields, Invocation, Result, location
from services.bus.connection import Bus
from services.bus.errors import BusError, BusRefused
from services.router.asynchronous import identity
from services.router.asynchronous.door import Cancel, Refusal, Reply, show
from services.router.asynchronous.metrics import AsyncMetrics
from services.router.asynchronous.report import event_of
from services.router.asynchronous.room import Room
from services.router.asynchronous.store import Store, body_room
from services.router.problems import Problem
from services.router.table import Key

_QUEUE_FULL: Final = "maximum bytes exceeded"


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A request that a route was found for and that its client does not want to wait for."""

    function: Key
    route: str
    method: str
    target: str
    host: str
    headers: list[tuple[bytes, bytes]]
    parameters: list[tuple[bytes, bytes]]
    body: bytes
    client: str
    client_name: str = ""
    """Who it is, where the route asks: another client's key is another key."""
    scheme: str
    trusted: bool
    correlation: str
    traceparent: str


class _Accepted(msgspec.Struct, frozen=True):
    id: str
    location: str


class Acceptance:
    """Stores what is offered."""

    def __init__(
        self,
        bus: Bus,
        store: Store,
        room: Room,
        cancel: Cancel,
        metrics: AsyncMetrics,
        emit: Callable[[Event], None],
        stored: Callable[[Key], None],
        body_bytes: int,
    ) -> None:
        """Take what it works with; `stored` is told of each function that has something queued."""
        self._bus = bus
        self._store = store
        self._room = room
        self._cancel = cancel
        self._metrics = metrics
        self._emit = emit
        self._stored = stored
        self._body_bytes = body_bytes

    async def show(self, method: str, path: str) -> Reply:
        """Return the answer to a request below the platform's own path. Raises Refusal."""
        return await show(self._store, self._cancel, method, path)

    @property
    def body_bytes(self) -> int:
        """The largest body that can be stored, in base64 and with what else there is."""
        return body_room(self._bus, self._body_bytes)

    async def accept(self, offer: Offer) -> Reply:
        """Return the answer to a request that is stored now, or was stored before.

        Raises:
            Refusal: it is not; or nobody can say whether it is.
        """
        try:
            reply = await self._accept(offer)
        except Refusal as refusal:
            self._metrics.refused(refusal.problem.status)
            raise
        self._stored(offer.function)
        return reply

    async def _accept(self, offer: Offer) -> Reply:
        if len(offer.body) > self.body_bytes:
            detail = f"bodies of up to {self.body_bytes} bytes are stored; send less, or wait for"
            raise Refusal(Problem(413, f"{detail} the answer without `Prefer: respond-async`"))
        try:
            key = identity.idempotency_key(offer.headers)
        except identity.BadKey as bad:
            raise Refusal(Problem(400, str(bad))) from None
        invocation = _invocation(offer, key)
        name = (invocation.namespace, invocation.function, invocation.id)
        try:
            before = await self._store.known(name) if key is not None else None
            if before is None:
                if lack := self._room.lack:
                    raise Refusal(Problem(503, lack, retry_after_s=5.0))
                await self._store.enqueue(invocation)
                self._tell(invocation)
                if key is not None:
                    # Somebody may have come with the same key at the same moment.
                    before = await self._store.known(name)
        except BusRefused as refused:
            raise Refusal(_problem(refused)) from refused
        except BusError as error:
            detail = "it could not be stored and may not be carried out; send it again, with an"
            problem = Problem(503, f"{detail} Idempotency-Key to be sure", retry_after_s=1.0)
            raise Refusal(problem) from error
        _same(before, invocation)
        path = location(*name)
        headers = [
            (b"location", path.encode("ascii")),
            (b"preference-applied", b"respond-async"),
            (b"content-type", b"application/json"),
        ]
        return 202, headers, msgspec.json.encode(_Accepted(invocation.id, path))

    def _tell(self, invocation: Invocation) -> None:
        self._metrics.accepted(invocation)
        said = f"accepted by the route {invocation.origin_name}"
        self._emit(event_of(invocation, "invocation-accepted", said))


def _invocation(offer: Offer, key: bytes | None) -> Invocation:
    namespace, function = offer.function
    return Invocation(
        namespace=namespace,
        function=function,
        id=identity.name_of(namespace, function, f"http {offer.client_name}", key),
        accepted_at=datetime.now(UTC),
        origin="http",
        origin_name=offer.route,
        correlation=offer.correlation,
        traceparent=offer.traceparent,
        method=offer.method,
        target=offer.target,
        host=offer.host,
        headers=identity.kept(offer.headers),
        parameters=_fields(offer.parameters),
        client=offer.client,
        scheme=offer.scheme,
        trusted=offer.trusted,
        body=offer.body,
        digest=identity.digest_of(offer.method, offer.target, offer.body),
        repeatable=key is not None,
    )


def _fields(headers: list[tuple[bytes, bytes]]) -> Fields:
    return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers)


def _same(before: Invocation | Result | None, now: Invocation) -> None:
    """Refuse a key that stands for another request already (as the IETF's draft of it says)."""
    if before is not None and before.digest and before.digest != now.digest:
        detail = "this Idempotency-Key was used for another request; take a new one"
        raise Refusal(Problem(422, detail))


def _problem(refused: BusRefused) -> Problem:
    if _QUEUE_FULL in refused.reason:
        detail = "the queue is full; send the request again later"
    else:
        detail = "it could not be stored; the router's log says why"
    return Problem(503, detail, retry_after_s=5.0)
