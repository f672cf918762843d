"""One invocation, from the client's request to the last byte of its answer, by callbacks.

Almost every request on the data port goes this way. A task, an ASGI cycle and
their futures would cost more than everything that is decided for a request, so
here each thing that happens (a body's piece, a slot, an answer's head, a lost
client) is a method that takes the invocation to its next step. What is decided
is shared with the ASGI application in `services.router.invoke`, which serves
all that is more than a plain invocation, and must answer as this does.

Steps: its turn on the connection comes (`start`); the body is read, whole or as
much as will be held; a slot is taken or waited for; a connection to the instance
is taken or made; the request is sent; the answer is passed on as it comes.
"""

# ruff: noqa: D102 - what calls a callback documents it

import asyncio
import functools
import logging
from collections.abc import Callable
from time import perf_counter
from typing import Concatenate, Final, ParamSpec

from schemas.endpoints import Endpoint
from services.router.admission import Admitted, too_large, too_slow
from services.router.answer import AnswerHead
from services.router.choice import Candidate, Cause
from services.router.coldstart import ColdStart, cold_start_event
from services.router.framing import chunk, header_lines, id_lines, parameter_headers, with_token
from services.router.limits import REPLAY_BYTES, answer_deadline_s
from services.router.metrics import NOBODY
from services.router.problems import Problem
from services.router.reply import Reply, TooLong, whole_answer, write_problem
from services.router.request import Client, Request
from services.router.retry import (
    NOT_EXECUTED,
    REASONS,
    Failure,
    cause_of,
    may_retry,
    problem_of,
)
from services.router.slots import Grant, no_room
from services.router.state import Function
from services.router.table import Key
from services.router.upload import Upload
from services.router.upstream import ConnectFailed, Connection
from services.router.workings import Workings

log = logging.getLogger(__name__)

_GONE: Final = 499
"""The status that is counted for a client that left before its answer, as nginx does."""

P = ParamSpec("P")


def _guarded(
    step: Callable[Concatenate["Invocation", P], None],
) -> Callable[Concatenate["Invocation", P], None]:
    """Answer 500 if a step raises what it must not: nothing may be left hanging, or lost."""

    @functools.wraps(step)
    def run(invocation: "Invocation", /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            step(invocation, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - it is told
            invocation.crash(error)

    return run


class Invocation:
    """One request on its way to an instance, and the answer on its way back."""

    # What most invocations never need is not set for each: a third of what making one costs.
    response_complete = False
    parked_at = 0.0
    _function: Function | None = None
    _key: Key = NOBODY
    _until = 0.0
    """When, on the loop's clock, the step that is bounded in all must be over."""
    # The body on its way in.
    _size = 0
    _body_complete = False
    _reading = False
    _upload: Upload | None = None
    # The call that is being made.
    _head = b""
    _silence_s = 0.0
    _unanswered = 0
    _parked = False
    _candidate: Candidate | None = None
    _cold: ColdStart | None = None
    _attempted_at = 0.0
    _sent_at = 0.0
    _connection: Connection | None = None
    _reused = False
    _reply: Reply | None = None
    """The answer of an instance; the client has some of it once it is begun."""
    # The one thing that is waited for besides, and the one task there may be.
    _timer: asyncio.TimerHandle | None = None
    _connecting: asyncio.Task[None] | None = None

    def __init__(self, workings: Workings, client: Client, request: Request) -> None:
        self.request_id = request.trace.request_id
        self.keep_alive = request.keep_alive
        self._workings = workings
        self._client = client
        self._request = request
        self._began = 0.0
        self._pieces: list[bytes] = []

    @property
    def response_started(self) -> bool:
        """Whether the client got some of an instance's answer."""
        return self._reply is not None and self._reply.begun

    # What the client's connection calls.

    def start(self, body: bytes | None = None) -> None:
        """Begin: the requests before it on the connection are answered.

        Without `body`, that is still to come, or came while this waited for its turn.
        """
        try:
            self._start(body)
        except Exception as error:  # noqa: BLE001 - it is told
            self.crash(error)

    def _start(self, body: bytes | None) -> None:
        self._began = perf_counter()
        if body is not None:
            self._pieces.append(body)
            self._size = len(body)
            self._body_complete = True
        verdict = self._request.verdict
        if isinstance(verdict, Problem):
            self._refuse(verdict)
            return
        incoming = verdict.head.incoming
        function = self._function = verdict.function
        self._key = function.key
        limits = self._workings.limits
        announced = self._size if incoming.length == "chunked" else incoming.length
        if announced > function.body_bytes:
            self._refuse(too_large(function.body_bytes))
        elif incoming.length == 0 or self._body_complete:
            self._body_complete = True
            self._acquire()
        else:
            if incoming.expects_continue:
                self._client.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._until = self._workings.loop.time() + limits.transfer_s
            self._reading = True

    @_guarded
    def on_body(self, data: bytes) -> None:
        """Take a piece of the request's body."""
        self._size += len(data)
        function = self._function
        if function is None:
            # It is not its turn: the connection reads no further than it has read.
            self._pieces.append(data)
        elif self._size > function.body_bytes:
            self._refuse(too_large(function.body_bytes))
        elif self._upload is not None:
            self._upload.on_body(data)
        else:
            self._pieces.append(data)

    @_guarded
    def on_body_end(self) -> None:
        """Take note that the body is complete."""
        self._body_complete = True
        if self._upload is not None:
            self._upload.on_body_end()
        elif self._reading:
            self._acquire()

    @_guarded
    def on_body_pause(self) -> None:
        """Look at what has come of the body: there is no more of it at the moment."""
        if self._upload is not None:
            self._upload.flow()
        elif not self._reading:
            return
        elif self._size < REPLAY_BYTES:
            self.expect_body()
        else:
            self._client.pause_body()
            self._acquire()

    @_guarded
    def on_stall(self) -> None:
        """Give up a body that does not come."""
        self._refuse(too_slow())

    @_guarded
    def on_client_writable(self) -> None:
        """Pass the answer on: the client has read what was sent."""
        if self._connection is not None and self._reply is not None:
            self._stop_timer()
            self._connection.resume_reading()
            self._connection.expect_within(self._silence_s)

    def on_lost(self) -> None:
        """Give up: the client has left, unless it was its connection that was broken off."""
        if self.response_complete:
            return
        self._workings.metrics.clients_gone += 1
        self._drop()
        self._end(_GONE)

    # What the upload calls.

    def pause_body(self) -> None:
        self._client.pause_body()

    def expect_body(self) -> None:
        workings = self._workings
        left = self._until - workings.loop.time()
        self._client.expect_body(max(0.0, min(workings.limits.stall_s, left)))

    # What the slots call.

    @_guarded
    def on_grant(self, grant: Grant) -> None:
        self._parked = False
        self._stop_timer()
        self._attempt(grant.candidate, grant.cold)

    @_guarded
    def on_refusal(self, problem: Problem) -> None:
        self._parked = False
        self._refuse(problem)

    # What the connection to the instance calls.

    @_guarded
    def on_continue(self) -> None:
        if self._upload is not None:
            self._upload.invite()

    def on_head(self, head: AnswerHead, data: bytes, ended: bool) -> None:
        if not (ended and self._pass_on_whole(head, data)):
            self._begin_reply(head, data, ended)

    def _pass_on_whole(self, head: AnswerHead, data: bytes) -> bool:
        """Pass on an answer that is here in one piece, as most are; False if it needs more care."""
        if head.status == 421 or self._cold is not None:
            return False
        try:
            whole = whole_answer(self._client, self._request, head, data, close=not self.keep_alive)
            if whole is None:
                return False
            self._connection = None
            self._client.write(whole)
            self._finish(head.status)
        except ValueError:
            # It must not be passed on.
            return False
        except Exception as error:  # noqa: BLE001 - it is told
            self.crash(error)
        return True

    @_guarded
    def _begin_reply(self, head: AnswerHead, data: bytes, ended: bool) -> None:
        connection = self._connection
        assert connection is not None  # noqa: S101 - it is what calls
        failure: Failure | None = None
        try:
            reply = Reply(self._client, self._request, head, close=not self.keep_alive)
            # Without a token it is no keeper that answers, whatever it says.
            if head.status == 421 and connection.endpoint.token:
                failure = REASONS.get(head.answer.reason)
        except ValueError:
            failure = "malformed"
        if failure is not None:
            if not ended:
                connection.abandon()
            self._connection = None
            self._fail(failure)
            return
        if self._cold is not None:
            self._tell_cold_start(self._cold)
        if self._upload is not None:
            self._upload.answered = True
        self._reply = reply
        if not ended:
            self._until = self._workings.loop.time() + self._workings.limits.transfer_s
        self._pass_on(reply, data, ended)

    @_guarded
    def on_data(self, data: bytes, ended: bool) -> None:
        assert self._reply is not None  # noqa: S101 - there was a head
        self._pass_on(self._reply, data, ended)

    @_guarded
    def on_failure(self, failure: Failure) -> None:
        self._connection = None
        self._fail(failure)

    @_guarded
    def on_writable(self) -> None:
        if self._upload is not None:
            self._upload.flow()

    # The call.

    def _acquire(self) -> None:
        """Take a slot, or wait for one."""
        self._reading = False
        workings = self._workings
        function = self._key
        candidate = workings.slots.take(function)
        if candidate is not None:
            self._attempt(candidate, None)
            return
        limits = workings.limits
        self.parked_at = perf_counter()
        spent = self.parked_at - self._began
        within = max(0.0, min(limits.park_s, limits.transfer_s + limits.park_s - spent))
        self._parked = True
        workings.slots.park(function, self)
        if self._parked:
            self._timer = workings.loop.call_later(within, self._on_parked_long, within)

    @_guarded
    def _on_parked_long(self, within: float) -> None:
        self._timer = None
        self._parked = False
        self._workings.slots.leave(self._key, self)
        self._refuse(no_room(within))

    def _attempt(self, candidate: Candidate, cold: ColdStart | None) -> None:
        """Make the call on `candidate`, whose slot this has now."""
        self._candidate = candidate
        self._cold = cold
        if cold is not None:
            self._attempted_at = perf_counter()
        workings = self._workings
        connection = workings.pool.take(candidate.endpoint)
        if connection is not None:
            self._send(connection)
        else:
            self._connecting = workings.loop.create_task(self._connect(candidate.endpoint))

    async def _connect(self, endpoint: Endpoint) -> None:
        try:
            connection = await self._workings.pool.connect(endpoint)
        except ConnectFailed as failed:
            self._connecting = None
            self._reused = False
            self.on_failure(failed.failure)
        else:
            self._connecting = None
            self._on_connected(connection)

    @_guarded
    def _on_connected(self, connection: Connection) -> None:
        self._send(connection)

    def _send(self, connection: Connection) -> None:
        """Send the request, or begin to: the upload does what is left."""
        verdict = self._request.verdict
        candidate = self._candidate
        assert isinstance(verdict, Admitted)  # noqa: S101 - else it was refused
        assert candidate is not None  # noqa: S101 - it was chosen
        method = verdict.head.method
        if not self._head:
            self._head = self._request_head(verdict)
            self._silence_s = answer_deadline_s(verdict.function.timeout_s, self._workings.limits)
        if self._cold is not None:
            self._sent_at = perf_counter()
        self._connection = connection
        self._reused = connection.reused
        chunked = verdict.head.incoming.length == "chunked"
        token = candidate.endpoint.token
        if not self._body_complete:
            connection.start(self, method, with_token(self._head, token, ask=True))
            self._upload = Upload(self, connection, self._pieces, self._silence_s, chunked=chunked)
            return
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        if chunked:
            body = chunk(body) + chunk(b"") if body else chunk(b"")
        connection.call(self, method, with_token(self._head, token) + body, self._silence_s)

    def _request_head(self, verdict: Admitted) -> bytes:
        head, match = verdict.head, verdict.match
        trace = self._request.trace
        front, chained = head.outgoing
        lines = (
            front
            + self._client.origin_lines(head.incoming.host, chained)
            + id_lines(trace.request_id, trace.traceparent)
        )
        if match.values:
            lines += header_lines(parameter_headers(match.route.parameters, match.values))
        return lines

    def _fail(self, failure: Failure) -> None:
        """Make the call again, or say that it failed."""
        replayable = self._upload is None or self._upload.replayable
        self._release(cause_of(failure, reused=self._reused))
        if self.response_started:
            self._workings.metrics.truncated += 1
            self._break_off()
            return
        if failure not in NOT_EXECUTED:
            self._unanswered += 1
        if may_retry(
            failure,
            method=self._request.method,
            replayable=replayable,
            reused=self._reused,
            unanswered=self._unanswered,
        ):
            self._workings.metrics.retries += 1
            self._acquire()
        else:
            self._refuse(problem_of(failure))

    # The answer.

    def _pass_on(self, reply: Reply, data: bytes, ended: bool) -> None:
        """Pass the answer on, and read the instance no faster than the client reads."""
        try:
            more = reply.put(data, ended=ended)
        except TooLong:
            detail = "the answer's length is not known in advance; speak HTTP/1.1 to get it"
            self._refuse(Problem(505, detail))
            return
        connection = self._connection
        assert connection is not None  # noqa: S101 - the answer comes from it
        if ended:
            self._connection = None
            self._finish(reply.status)
        elif more:
            connection.expect_within(self._silence_s)
        else:
            connection.pause_reading()
            connection.expect_within(None)
            self._await_reader()

    def _await_reader(self) -> None:
        """Give the client its time to read what was written."""
        if self._timer is None:
            workings = self._workings
            within = min(workings.limits.stall_s, max(0.0, self._until - workings.loop.time()))
            self._timer = workings.loop.call_later(within, self._on_unread)

    @_guarded
    def _on_unread(self) -> None:
        """Give up a client that does not read its answer."""
        self._timer = None
        self._workings.metrics.truncated += 1
        self._drop()
        self._break_off()

    def _break_off(self) -> None:
        """End an answer in the middle. Only a broken connection tells the client so."""
        self._client.abort()
        self._end(_GONE if self._reply is None else self._reply.status)

    def _refuse(self, problem: Problem) -> None:
        """Answer `problem`; if an answer has begun, break it off."""
        self._drop()
        if self.response_started:
            self._break_off()
            return
        self.keep_alive = self.keep_alive and not problem.close
        write_problem(self._client, self._request, problem, close=not self.keep_alive)
        self._end(problem.status)
        self._client.on_answered(self.keep_alive)

    def _tell_cold_start(self, cold: ColdStart) -> None:
        workings = self._workings
        workings.metrics.cold_starts += 1
        connect_ms = (self._sent_at - self._attempted_at) * 1000
        first_byte_ms = (perf_counter() - self._sent_at) * 1000
        workings.emit(cold_start_event(self._key, cold, connect_ms, first_byte_ms, self.request_id))

    # The end.

    def _finish(self, status: int) -> None:
        """End: the answer is written whole."""
        self._release(None)
        self._end(status)
        self._client.on_answered(self.keep_alive)

    def _end(self, status: int) -> None:
        if not self.response_complete:
            self.response_complete = True
            self._workings.metrics.answered(self._key, status, perf_counter() - self._began)

    def _drop(self) -> None:
        """Let go of whatever is under way."""
        if self._parked:
            self._parked = False
            self._workings.slots.leave(self._key, self)
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        if self._connection is not None:
            self._connection.abandon()
            self._connection = None
        self._release("")

    def _release(self, cause: Cause | None) -> None:
        """Give the slot back, if there is one."""
        self._reading = False
        if self._timer is not None:
            self._stop_timer()
        if self._upload is not None:
            self._upload.stop()
            self._upload = None
        candidate, self._candidate = self._candidate, None
        if candidate is not None:
            self._workings.slots.release(self._key, candidate, cause)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def crash(self, error: Exception) -> None:
        """Say that a step failed which must not."""
        fields = {"request_id": self.request_id}
        log.error("a request could not be served", exc_info=error, extra=fields)
        if not self.response_complete:
            self._refuse(Problem(500, "the router failed; its log says how"))
