"""One invocation, from the client's request to the last byte of its answer.

A plain ASGI application: every path on the data port is an invocation, so there
is nothing for a web framework to route. It runs on `services.router.protocol`,
whose client connection stands in `scope["state"]["client"]`.
"""

# ruff: noqa: N818 - the names say what happened; a suffix would add nothing

import asyncio
import contextlib
import functools
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import quote

import msgspec

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
from services.router.asynchronous.accept import Acceptance, Offer
from services.router.asynchronous.door import Refusal, Reply
from services.router.asynchronous.identity import prefers_async
from services.router.body import BodyRefused, Receive, RequestBody
from services.router.choice import Cause
from services.router.coldstart import ColdStart, cold_start_event
from services.router.exchange import CallFailed, Exchange
from services.router.framing import (
    Answer,
    BadRequest,
    Forwarding,
    Header,
    Incoming,
    Network,
    chunk,
    is_trusted,
    parameter_headers,
    read_answer,
    read_request,
    request_head,
    with_token,
)
from services.router.limits import HTTP10_BYTES, INVITED_S, Limits, answer_deadline_s
from services.router.metrics import NOBODY, Metrics
from services.router.paths import BadPath, decode_path, host_name
from services.router.problems import Problem, encode
from services.router.protocol import ClientConnection
from services.router.retry import NOT_EXECUTED, Failure, cause_of, may_retry, problem_of
from services.router.slots import Grant, NoSlot, Slots
from services.router.state import Function
from services.router.table import Key, Match, WrongMethod
from services.router.tracing import Trace, read_trace
from services.router.upstream import ConnectFailed, Connection, Pool

log = logging.getLogger(__name__)

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Scope = MutableMapping[str, Any]

_NOT_EXECUTED: Final[dict[bytes, Failure]] = {
    b"wrong-instance": "wrong-instance",
    b"draining": "draining",
    b"busy": "busy",
}
"""`x-wasmfn-reason` of a keeper's 421, which is never passed on to a client."""


class Refused(Exception):
    """The router answers this request itself."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(problem.detail)


class _Reply:
    """The answer on its way to the client."""

    __slots__ = (
        "_client", "_limits", "_loop", "_request_id", "_send", "_until", "dress", "function",
        "status",
    )  # fmt: skip

    def __init__(
        self, client: ClientConnection, send: Send, request_id: str, limits: Limits
    ) -> None:
        self.status = 0
        """0 until the answer's head is sent."""
        self.function: Key = NOBODY
        self.dress: Callable[[list[Header]], None] = lambda headers: None
        """What the route has to add to the headers of any answer."""
        self._client = client
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._send = send
        self._request_id = request_id
        self._until = 0.0

    async def problem(self, problem: Problem) -> None:
        headers, body = encode(problem, self._request_id)
        await self._start(problem.status, headers)
        await self._put(body, more=False)

    async def whole(self, answer: Reply) -> None:
        """Send an answer of the router's own."""
        status, headers, body = answer
        length = (b"content-length", b"%d" % len(body))
        await self._start(status, [*headers, length, (b"x-request-id", self._request_id.encode())])
        await self._put(body, more=False)

    async def relay(self, answer: Answer, exchange: Exchange) -> None:
        """Pass the answer on as it comes, as fast as the client takes it.

        Raises:
            CallFailed: the instance broke off.
            TimeoutError: the client does not read.
        """
        headers = [*answer.headers, (b"x-request-id", self._request_id.encode("ascii"))]
        await self._start(answer.status, headers)
        while True:
            data = await exchange.read()
            more = bool(data) and not exchange.ended
            await self._put(data, more=more)
            if not more:
                return

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.status = status
        self.dress(headers)
        self._until = self._loop.time() + self._limits.transfer_s
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _put(self, body: bytes, *, more: bool) -> None:
        message = {"type": "http.response.body", "body": body, "more_body": more}
        if not self._client.flow.write_paused:
            await self._send(message)
            return
        stall = self._loop.time() + self._limits.stall_s
        async with asyncio.timeout_at(min(self._until, stall)):
            await self._send(message)


class _Call(msgspec.Struct, frozen=True):
    """What is sent to an instance, the same for every attempt."""

    method: str
    head: bytes
    chunked: bool
    body: RequestBody
    function: Function
    buffered: bool
    """The client speaks HTTP/1.0: it must be told the answer's length."""

    def framed(self, piece: bytes) -> bytes:
        """Return a piece of the body as it is sent."""
        return chunk(piece) if self.chunked and piece else piece


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
        self._pool = pool
        self._limits = limits
        self._metrics = metrics
        self._emit = emit
        self._trusted = trusted
        self._loop = asyncio.get_running_loop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI 3). Never raises: what goes wrong is answered and counted."""
        began = self._loop.time()
        trace = read_trace(scope["headers"])
        client: ClientConnection = scope["state"]["client"]
        reply = _Reply(client, send, trace.request_id, self._limits)
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
            reply.status = 499
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
            self._metrics.answered(reply.function, reply.status or 500, self._loop.time() - began)

    async def _serve(
        self, scope: Scope, receive: Receive, reply: _Reply, trace: Trace, began: float
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
        match, function = self._route(host, method, path)
        reply.function = function.key
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
        call = _Call(
            method=method,
            head=self._head(scope, incoming, trace, match),
            chunked=incoming.length == "chunked",
            body=body,
            function=function,
            buffered=scope["http_version"] == "1.0",
        )
        until = began + self._limits.transfer_s + self._limits.park_s
        await self._call(call, reply, trace, until)

    async def _enter(self, scope: Scope, reply: _Reply, gate: Gate) -> bool:
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

    async def _call(self, call: _Call, reply: _Reply, trace: Trace, until: float) -> None:
        """Make the call, on one endpoint after another if need be, and pass its answer on."""
        function = call.function
        unanswered = 0
        while True:
            within = max(0.0, min(self._limits.park_s, until - self._loop.time()))
            grant = await self._slots.acquire(function.key, trace.request_id, within)
            cause: Cause | None = ""
            try:
                await self._attempt(call, grant, reply, trace)
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
                self._slots.release(function.key, grant.candidate, cause)

    def _route(self, host: str, method: str, path: str) -> tuple[Match, Function]:
        found = self._state.table.match(host, method, path)
        if found is None and not self._state.complete:
            detail = "the router is still reading its routes; send the request again"
            raise Refused(Problem(503, detail, retry_after_s=1.0))
        if found is None:
            raise Refused(Problem(404, "no route matches this host and path; check the URL"))
        if isinstance(found, WrongMethod):
            detail = f"the path is served, but not for {method}; use {', '.join(found.allowed)}"
            raise Refused(Problem(405, detail, allow=found.allowed))
        function = self._state.functions.get(found.route.function)
        if function is None:
            detail = "the route's function is not there yet; deploy it, or send the request later"
            raise Refused(Problem(503, detail, retry_after_s=5.0))
        return found, function

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

    async def _attempt(self, call: _Call, grant: Grant, reply: _Reply, trace: Trace) -> None:
        """Make the call once, and pass its answer on.

        Raises:
            CallFailed: there is no answer, or (once `reply.status` is set) no more of it.
        """
        endpoint = grant.candidate.endpoint
        connecting = self._loop.time()
        connection = self._pool.take(endpoint)
        if connection is None:
            try:
                connection = await self._pool.connect(endpoint)
            except ConnectFailed as failed:
                raise CallFailed(failed.failure, reused=False) from failed
        sending = self._loop.time()
        exchange = Exchange(connection)
        exchange.silence_s = answer_deadline_s(call.function.timeout_s, self._limits)
        upload = self._send(call, connection, exchange, endpoint.token)
        try:
            answer = await self._answer(exchange, call)
            if grant.cold is not None:
                steps = {
                    "connect": (sending - connecting) * 1000,
                    "first_byte": (self._loop.time() - sending) * 1000,
                }
                self._tell_cold_start(call.function.key, grant.cold, steps, trace)
            await reply.relay(answer, exchange)
        except CallFailed:
            if upload is not None and upload.done() and not upload.cancelled():
                upload.result()
            raise
        finally:
            exchange.leave()
            if upload is not None:
                upload.cancel()
                with contextlib.suppress(asyncio.CancelledError, BodyRefused):
                    await upload

    def _send(
        self, call: _Call, connection: Connection, exchange: Exchange, token: str
    ) -> asyncio.Task[None] | None:
        """Send the request, or begin to; the task does what is left."""
        if call.body.complete:
            whole = call.framed(call.body.ahead) + (chunk(b"") if call.chunked else b"")
            connection.start(exchange, call.method, with_token(call.head, token) + whole)
            connection.finish()
            connection.expect_within(exchange.silence_s)
            return None
        # What is not held cannot be sent twice: nothing of it is read before the
        # instance has taken the request.
        connection.start(exchange, call.method, with_token(call.head, token, ask=True))
        return self._loop.create_task(self._upload(call, connection, exchange))

    async def _upload(self, call: _Call, connection: Connection, exchange: Exchange) -> None:
        """Send the rest of the body as it comes, as fast as the instance takes it."""
        body = call.body
        if not await exchange.invited(INVITED_S):
            return
        connection.send(call.framed(body.ahead))
        try:
            while not body.complete and await exchange.drain():
                connection.send(call.framed(await body.read_on()))
        except BodyRefused:
            exchange.on_failure("closed")
            connection.abandon()
            raise
        if body.complete and not exchange.ended:
            if call.chunked:
                connection.send(chunk(b""))
            connection.finish()
            if not exchange.has_head:
                connection.expect_within(exchange.silence_s)

    async def _answer(self, exchange: Exchange, call: _Call) -> Answer:
        """Return the answer's head. CallFailed if there is none, or it says: not executed."""
        status, headers = await exchange.head()
        try:
            answer = read_answer(status, headers)
        except ValueError:
            raise CallFailed("malformed", reused=exchange.reused) from None
        # Without a token it is no keeper that answers, whatever it says.
        keeper = exchange.connection.endpoint.token != ""
        failure = _NOT_EXECUTED.get(answer.reason) if keeper else None
        if failure is not None:
            raise CallFailed(failure, reused=exchange.reused)
        if call.buffered and answer.length is None and call.method != "HEAD":
            size = await exchange.hold(HTTP10_BYTES)
            if size is None:
                detail = "the answer's length is not known in advance; speak HTTP/1.1 to get it"
                raise Refused(Problem(505, detail))
            length = (b"content-length", b"%d" % size)
            return Answer(status, [*answer.headers, length], size, b"")
        return answer

    def _tell_cold_start(
        self, function: Key, cold: ColdStart, steps: dict[str, float], trace: Trace
    ) -> None:
        self._metrics.cold_starts += 1
        self._emit(
            cold_start_event(
                function, cold, steps["connect"], steps["first_byte"], trace.request_id
            )
        )


def _parameters(scope: Scope, match: Match) -> list[Header]:
    """Return the headers of ours that tell the function of the path and of who calls."""
    parameters = parameter_headers(match.route.parameters, match.values) if match.values else []
    if "client_name" in scope:
        parameters.append((CLIENT_HEADER, quote(scope["client_name"]).encode("ascii")))
    return parameters
