"""One invocation, from the client's request to the last byte of its answer.

A plain ASGI application: every path on the data port is an invocation, so there
is nothing for a web framework to route. It runs on `services.router.protocol`,
whose client connection stands in `scope["state"]["client"]`.
"""

import asyncio
import functools
import logging
from collections.abc import Callable, MutableMapping
from typing import Any
from urllib.parse import quote

from schemas.events import Event
from schemas.invocations import RESERVED_PATH
from services.router.access.cors import asked_method
from services.router.access.entry import (
    CLIENT_HEADER,
    Entry,
    TurnedAway,
    client_address,
    without,
)
from services.router.access.gate import Answered, Gate
from services.router.admission import Refused, route
from services.router.asynchronous.accept import Acceptance, Offer
from services.router.asynchronous.door import Refusal, Reply
from services.router.asynchronous.identity import prefers_async
from services.router.attempt import Attempts, Outcall
from services.router.body import BodyRefused, Receive, RequestBody
from services.router.exchange import CallFailed
from services.router.fleet import Cause
from services.router.framing import (
    BadRequest,
    Forwarding,
    Header,
    Incoming,
    Network,
    is_trusted,
    parameter_headers,
    read_request,
    request_head,
)
from services.router.limits import Limits
from services.router.metrics import Metrics
from services.router.paths import BadPath, decode_path, host_name
from services.router.pool import Pool
from services.router.problems import GONE, Problem
from services.router.protocol import ClientConnection
from services.router.relay import Relay, Send
from services.router.retry import NOT_EXECUTED, cause_of, may_retry, problem_of
from services.router.slots import NoSlot, Slots
from services.router.state import Function
from services.router.table import Match
from services.router.tracing import Trace, read_trace

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]


class Invocations:
    """The application on the data port."""

    def __init__(
        self,
        slots: Slots,
        pool: Pool,
        limits: Limits,
        metrics: Metrics,
        emit: Callable[[Event], None],
        trusted: tuple[Network, ...] = (),
        acceptance: Acceptance | None = None,
        entry: Entry | None = None,
    ) -> None:
        self._state = slots.state
        self._entry = entry or Entry(())
        self._acceptance = acceptance
        self._slots = slots
        self._limits = limits
        self._metrics = metrics
        self._trusted = trusted
        self._loop = asyncio.get_running_loop()
        self._attempts = Attempts(pool, limits, metrics, emit)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI 3). Never raises: what goes wrong is answered and counted."""
        began = self._loop.time()
        trace = read_trace(scope["headers"])
        client: ClientConnection = scope["state"]["client"]
        reply = Relay(client, send, trace.request_id, self._limits)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - the server runs each request in a task
        client.on_lost = task.cancel
        try:
            try:
                await self._serve(scope, receive, reply, trace, began)
            except (Refused, TurnedAway, BodyRefused, NoSlot, Refusal) as refusal:
                if reply.status:
                    client.abort()
                else:
                    await reply.problem(refusal.problem)
        except (CallFailed, TimeoutError):
            # Part of the answer is out. Only a broken connection tells the client so.
            self._metrics.truncated += 1
            client.abort()
        except asyncio.CancelledError:
            # The client left, or the time to drain is over: nobody waits for an answer.
            self._metrics.clients_gone += 1
            reply.status = GONE
            client.abort()
        except Exception:
            log.exception("a request could not be served", extra={"request_id": trace.request_id})
            if reply.status:
                client.abort()
            else:
                await reply.problem(Problem(500, "the router failed; its log says how"))
        finally:
            if client.on_lost == task.cancel:
                # Else the next request of the connection has begun already.
                client.on_lost = None
            counted = reply.fleet or self._state.nobody
            counted.count(reply.status or 500, self._loop.time() - began)

    async def _serve(
        self, scope: Scope, receive: Receive, reply: Relay, trace: Trace, began: float
    ) -> None:
        method: str = scope["method"]
        try:
            incoming = read_request(scope["http_version"], scope["headers"])
            path = decode_path(scope["raw_path"].decode("latin-1"))
        except BadRequest as bad:
            raise Refused(Problem(bad.status, bad.detail, close=True)) from None
        except BadPath as bad:
            raise Refused(Problem(400, str(bad))) from None
        if path.startswith(RESERVED_PATH):
            await reply.whole(await self._own(method, path))
            return
        host = host_name(incoming.host.decode("latin-1"))
        headers: list[Header] = scope["headers"]
        asked = asked_method(method, headers)
        found = self._state.table.match(host, asked, path) if asked else None
        if isinstance(found, Match) and found.route.gate is not None and found.route.gate.has_cors:
            await self._enter(scope, reply, found.route.gate)
            return
        match, function = route(self._state, host, method, path)
        reply.fleet = self._state.fleet(function.key)
        body_bytes = function.body_bytes
        if (gate := match.route.gate) is not None:
            if not await self._enter(scope, reply, gate):
                return
            if gate.body_bytes is not None:
                body_bytes = min(body_bytes, gate.body_bytes)
        if self._acceptance is not None and prefers_async(scope["headers"]):
            body = RequestBody(receive, incoming.length, body_bytes, self._limits)
            offer = await self._offer(scope, body, incoming, trace, match, function)
            await reply.whole(await self._acceptance.accept(offer))
            return
        body = RequestBody(receive, incoming.length, body_bytes, self._limits)
        await body.read_ahead()
        call = Outcall(
            method=method,
            head=self._head(scope, incoming, trace, match),
            chunked=incoming.length == "chunked",
            body=body,
            function=function,
            buffered=scope["http_version"] == "1.0",
        )
        until = began + self._limits.transfer_s + self._limits.park_s
        await self._call(call, reply, trace, until)

    async def _enter(self, scope: Scope, reply: Relay, gate: Gate) -> bool:
        """Let the request in as its route wants it; False for a preflight, which is answered.

        Raises:
            TurnedAway: it does not get in.
        """
        headers: list[Header] = scope["headers"]
        reply.dress = functools.partial(gate.dress, tuple(headers))
        peer = scope["client"][0] if scope["client"] else "unknown"
        address = client_address(peer, headers, trusted=is_trusted(peer, self._trusted))
        entered = await self._entry.enter(gate, scope["method"], headers, address)
        if isinstance(entered, Answered):
            reply.dress = lambda headers: None
            await reply.whole((200, list(entered.headers), b""))
            return False
        if gate.secret_header:
            scope["headers"] = without(headers, gate.secret_header)
        if entered.client:
            scope["client_name"] = entered.client
        return True

    async def _call(self, call: Outcall, reply: Relay, trace: Trace, until: float) -> None:
        """Make the call, on one endpoint after another if need be, and pass its answer on."""
        function = call.function
        unanswered = 0
        while True:
            within = max(0.0, min(self._limits.park_s, until - self._loop.time()))
            grant = await self._slots.acquire(function.key, trace.request_id, within)
            cause: Cause | None = ""
            try:
                await self._attempts.make(call, grant, reply, trace)
            except CallFailed as failed:
                cause = cause_of(failed.failure, reused=failed.reused)
                if reply.status:
                    raise
                if failed.failure not in NOT_EXECUTED:
                    unanswered += 1
                if not may_retry(
                    failed.failure,
                    method=call.method,
                    replayable=call.body.replayable,
                    reused=failed.reused,
                    unanswered=unanswered,
                ):
                    raise Refused(problem_of(failed.failure)) from None
                self._metrics.retries += 1
            else:
                cause = None
                return
            finally:
                self._slots.release(grant.candidate, cause)

    async def _own(self, method: str, path: str) -> Reply:
        """Return the answer to a request for a path of the platform's own."""
        if self._acceptance is None:
            raise Refused(Problem(404, "nothing is served here; check the URL"))
        return await self._acceptance.show(method, path)

    async def _offer(
        self,
        scope: Scope,
        body: RequestBody,
        incoming: Incoming,
        trace: Trace,
        match: Match,
        function: Function,
    ) -> Offer:
        """Return a request that is to be stored, with its whole body."""
        await body.read_ahead()
        whole = body.ahead
        while not body.complete and self._acceptance is not None:
            whole += await body.read_on()
            if len(whole) > self._acceptance.body_bytes:
                break  # It is refused for its size, whatever follows.
        peer = scope["client"][0] if scope["client"] else "unknown"
        query: bytes = scope["query_string"]
        target: bytes = scope["raw_path"]
        return Offer(
            function=function.key,
            route=match.route.name,
            method=scope["method"],
            target=(target + b"?" + query if query else target).decode("latin-1"),
            host=incoming.host.decode("latin-1"),
            headers=scope["headers"],
            parameters=_parameters(scope, match),
            body=whole,
            client=peer,
            client_name=scope.get("client_name", ""),
            scheme=scope["scheme"],
            trusted=is_trusted(peer, self._trusted),
            correlation=trace.request_id,
            traceparent=trace.traceparent,
        )

    def _head(self, scope: Scope, incoming: Incoming, trace: Trace, match: Match) -> bytes:
        peer = scope["client"][0] if scope["client"] else "unknown"
        query: bytes = scope["query_string"]
        target: bytes = scope["raw_path"]
        parameters = _parameters(scope, match)
        return request_head(
            scope["method"],
            target + b"?" + query if query else target,
            incoming,
            scope["headers"],
            Forwarding(
                request_id=trace.request_id,
                traceparent=trace.traceparent,
                client=peer,
                scheme=scope["scheme"],
                trusted=is_trusted(peer, self._trusted),
            ),
            parameters,
        )


def _parameters(scope: Scope, match: Match) -> list[Header]:
    """Return the headers of ours that tell the function of the path and of who calls."""
    parameters = parameter_headers(match.route.parameters, match.values) if match.values else []
    if "client_name" in scope:
        parameters.append((CLIENT_HEADER, quote(scope["client_name"]).encode("ascii")))
    return parameters
