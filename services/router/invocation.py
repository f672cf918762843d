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

import logging
from time import monotonic

from services.router.admission import Admitted, Head, too_large, too_slow
from services.router.answer import AnswerHead
from services.router.call import Call, guarded
from services.router.client import Client
from services.router.limits import REPLAY_BYTES, answer_deadline_s
from services.router.problems import GONE, Problem
from services.router.reply import Reply, TooLong, write_problem
from services.router.request import Request
from services.router.retry import REASONS, Failure
from services.router.tracing import NO_PARENT, REQUEST_NAME, Trace, fresh_id
from services.router.workings import Workings

log = logging.getLogger(__name__)


class Invocation(Call):
    """One request, from its client and back: its body, its call, the answer."""

    response_complete = False
    _verdict: Admitted | Problem | None = None
    """What is made of the request once its turn comes."""
    _until = 0.0
    """When the step that is bounded in all must be over."""
    _size = 0
    """Of what has come of the request's body."""
    _reply: Reply | None = None
    """The answer of an instance; the client has some of it once it is begun."""

    @property
    def response_started(self) -> bool:
        """Whether the client got some of an instance's answer."""
        return self._reply is not None and self._reply.begun

    # What the client's connection calls.

    def serve(
        self, workings: Workings, client: Client, head: Head, admitted: Admitted, body: bytes
    ) -> None:
        """Take a request of which all is here, as most come, and begin."""
        now = self._began = monotonic()
        self._workings = workings
        self._client = client
        self._request = head
        self._request_id = request_id = fresh_id()
        self._pieces = [body]
        self._admitted = admitted
        self._body_complete = True
        function = admitted.function
        try:
            if len(body) > function.body_bytes:
                self.refuse(too_large(function.body_bytes))
                return
            candidate = self._candidate = workings.slots.take(admitted.fleet, now)
            if candidate is None:
                self._park(now)
                return
            connection = workings.pool.take(candidate.endpoint)
            if connection is None:
                self._attempt(candidate, now)
                return
            # `_attempt` and `_send`, with nothing left to decide.
            self._connection = connection
            self._reused = True
            lead, last = client.lead(head, admitted), connection.last_lines
            data = b"".join((lead, REQUEST_NAME, request_id, NO_PARENT, last, body))
            until = now + answer_deadline_s(function.timeout_s, workings.limits)
            connection.call(self, head.method, data, until)
        except Exception as error:  # noqa: BLE001 - it is told
            self.crash(error)

    def prepare(
        self,
        workings: Workings,
        client: Client,
        request: Request,
        trace: Trace,
        verdict: Admitted | Problem,
    ) -> None:
        """Take a request whose turn and body are still to come."""
        self.keep_alive = request.keep_alive
        self._workings = workings
        self._client = client
        self._request = request
        self._request_id, self._after_id = trace.request, trace.rest
        self._pieces = []
        self._verdict = verdict

    @guarded
    def start(self) -> None:
        """Begin: the requests before it on the connection are answered.

        The body is still to come, or came while this waited for its turn.
        """
        now = self._began = monotonic()
        verdict, head = self._verdict, self._request
        if isinstance(verdict, Problem):
            self.refuse(verdict)
        else:
            assert isinstance(verdict, Admitted)  # noqa: S101 - one of the two was found
            assert isinstance(head, Head)  # noqa: S101 - it was let in
            self._admit(head, verdict, now)

    def _admit(self, head: Head, admitted: Admitted, now: float) -> None:
        """Read the body, if there is one to be read, or go on without."""
        incoming = head.incoming
        self._admitted = admitted
        function = admitted.function
        announced = self._size if incoming.length == "chunked" else incoming.length
        if announced > function.body_bytes:
            self.refuse(too_large(function.body_bytes))
        elif self._body_complete or incoming.length == 0:
            self._body_complete = True
            self._acquire(now)
        else:
            if incoming.expects_continue:
                self._client.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._until = now + self._workings.limits.transfer_s
            self._reading = True

    @guarded
    def on_body(self, data: bytes) -> None:
        """Take a piece of the request's body."""
        self._size += len(data)
        admitted = self._admitted
        if admitted is None:
            # It is not its turn: the connection reads no further than it has read.
            self._pieces.append(data)
        elif self._size > admitted.function.body_bytes:
            self.refuse(too_large(admitted.function.body_bytes))
        elif self._upload is not None:
            self._upload.on_body(data)
        else:
            self._pieces.append(data)

    @guarded
    def on_body_end(self) -> None:
        """Take note that the body is complete."""
        self._body_complete = True
        if self._upload is not None:
            self._upload.on_body_end()
        elif self._reading:
            self._reading = False
            self._acquire(monotonic())

    @guarded
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
            self._reading = False
            self._acquire(monotonic())

    @guarded
    def on_stall(self) -> None:
        """Give up a body that does not come."""
        self.refuse(too_slow())

    @guarded
    def on_client_writable(self) -> None:
        """Pass the answer on: the client has read what was sent."""
        if self._connection is not None and self._reply is not None:
            self._stop_timer()
            self._connection.resume_reading()
            self._connection.expect_within(self._silence_s)

    def on_lost(self, status: int) -> None:
        """Give up: the client has left, or was answered `status` without us."""
        if self.response_complete:
            return
        if status == GONE:
            self._workings.metrics.clients_gone += 1
        self._drop()
        self._end(status)

    # What the upload calls.

    def pause_body(self) -> None:
        self._client.pause_body()

    def expect_body(self) -> None:
        workings = self._workings
        left = self._until - monotonic()
        self._client.expect_body(max(0.0, min(workings.limits.stall_s, left)))

    # What the connection to the instance calls.

    def on_known(self, head: AnswerHead, data: bytes) -> None:
        if not self.keep_alive or self._cold is not None:
            self.on_head(head, data, True)
            return
        # Most answers are here in one piece, and no decision is left open.
        try:
            self._connection = None
            now = monotonic()
            self._finish(head.status, now)
            self._client.conclude(head.front, self._request_id, data, now)
        except Exception as error:  # noqa: BLE001 - it is told
            self.crash(error)

    @guarded
    def on_head(self, head: AnswerHead, data: bytes, ended: bool) -> None:
        connection = self._connection
        assert connection is not None  # noqa: S101 - it is what calls
        failure: Failure | None = None
        try:
            close = not self.keep_alive
            reply = Reply(self._client, self._request, self._request_id, head, close=close)
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
            self._until = monotonic() + self._workings.limits.transfer_s
        self._pass_on(reply, data, ended)

    @guarded
    def on_data(self, data: bytes, ended: bool) -> None:
        assert self._reply is not None  # noqa: S101 - there was a head
        self._pass_on(self._reply, data, ended)

    # The answer.

    def _pass_on(self, reply: Reply, data: bytes, ended: bool) -> None:
        """Pass the answer on, and read the instance no faster than the client reads."""
        try:
            more = reply.put(data, ended=ended)
        except TooLong:
            detail = "the answer's length is not known in advance; speak HTTP/1.1 to get it"
            self.refuse(Problem(505, detail))
            return
        connection = self._connection
        assert connection is not None  # noqa: S101 - the answer comes from it
        if ended:
            self._connection = None
            now = monotonic()
            self._finish(reply.status, now)
            self._client.on_answered(self.keep_alive, now)
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
            within = min(workings.limits.stall_s, max(0.0, self._until - monotonic()))
            self._timer = workings.loop.call_later(within, self._on_unread)

    @guarded
    def _on_unread(self) -> None:
        """Give up a client that does not read its answer."""
        self._timer = None
        self._workings.metrics.truncated += 1
        self._drop()
        self.break_off()

    def break_off(self) -> None:
        """End an answer in the middle. Only a broken connection tells the client so."""
        self._client.abort()
        self._end(GONE if self._reply is None else self._reply.status)

    def refuse(self, problem: Problem) -> None:
        """Answer `problem`; if an answer has begun, break it off."""
        self._drop()
        if self.response_started:
            self.break_off()
            return
        self.keep_alive = self.keep_alive and not problem.close
        close = not self.keep_alive
        write_problem(self._client, self._request, self._request_id, problem, close=close)
        self._end(problem.status)
        self._client.on_answered(self.keep_alive, monotonic())

    # The end.

    def _finish(self, status: int, now: float) -> None:
        """End the call: its answer is here whole."""
        if self._timer is not None or self._upload is not None:
            self._put_away()
        candidate, self._candidate = self._candidate, None
        assert candidate is not None  # noqa: S101 - it answered
        self._workings.slots.release(candidate)
        self.response_complete = True
        candidate.fleet.count(status, now - self._began)

    def _end(self, status: int) -> None:
        if not self.response_complete:
            self.response_complete = True
            state, admitted = self._workings.state, self._admitted
            fleet = None if admitted is None else state.fleets.get(admitted.function.key)
            # That of a function which is gone is looked at by nobody.
            (fleet or state.nobody).count(status, monotonic() - self._began)

    def crash(self, error: Exception) -> None:
        """Say that a step failed which must not."""
        fields = {"request_id": self.request_id}
        log.error("a request could not be served", exc_info=error, extra=fields)
        if self.response_complete:
            self._client.abort()
        else:
            self.refuse(Problem(500, "the router failed; its log says how"))
