"""One attempt of a call, for code that awaits: connect, send, and pass the answer on."""

import asyncio
import contextlib
from collections.abc import Callable

import msgspec

from schemas.events import Event
from services.router.admission import Refused
from services.router.body import BodyRefused, RequestBody
from services.router.coldstart import ColdStart, cold_start_event
from services.router.exchange import CallFailed, Exchange
from services.router.framing import Answer, chunk, read_answer, with_token
from services.router.limits import HTTP10_BYTES, INVITED_S, Limits, answer_deadline_s
from services.router.metrics import Metrics
from services.router.pool import ConnectFailed, Pool
from services.router.problems import Problem
from services.router.relay import Relay
from services.router.retry import REASONS
from services.router.slots import Grant
from services.router.state import Function
from services.router.table import Key
from services.router.tracing import Trace
from services.router.upstream import Connection


class Outcall(msgspec.Struct, frozen=True):
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


class Attempts:
    """Makes attempts."""

    def __init__(
        self, pool: Pool, limits: Limits, metrics: Metrics, emit: Callable[[Event], None]
    ) -> None:
        self._pool = pool
        self._limits = limits
        self._metrics = metrics
        self._emit = emit
        self._loop = asyncio.get_running_loop()

    async def make(self, call: Outcall, grant: Grant, reply: Relay, trace: Trace) -> None:
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
        self, call: Outcall, connection: Connection, exchange: Exchange, token: str
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

    async def _upload(self, call: Outcall, connection: Connection, exchange: Exchange) -> None:
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

    async def _answer(self, exchange: Exchange, call: Outcall) -> Answer:
        """Return the answer's head. CallFailed if there is none, or it says: not executed."""
        status, headers = await exchange.head()
        try:
            answer = read_answer(status, headers)
        except ValueError:
            raise CallFailed("malformed", reused=exchange.reused) from None
        # Without a token it is no keeper that answers, whatever it says.
        keeper = exchange.connection.endpoint.token != ""
        failure = REASONS.get(answer.reason) if keeper else None
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
