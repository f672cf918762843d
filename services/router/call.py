"""The call of an instance for one request: a slot, a connection, and again if it may be.

A call that was not executed is made once more, on whatever endpoint there is
then. What comes of it, an answer or a reason why there is none, is told to the
invocation that the call is part of.
"""

# ruff: noqa: D102 - what calls a callback documents it

import asyncio
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from time import monotonic
from typing import Concatenate, ParamSpec, TypeVar

from schemas.endpoints import Endpoint
from services.router.admission import Admitted, Head
from services.router.answer import AnswerHead
from services.router.client import Client
from services.router.coldstart import ColdStart, cold_start_event
from services.router.fleet import Candidate, Cause
from services.router.framing import chunk, with_token
from services.router.limits import answer_deadline_s
from services.router.pool import ConnectFailed
from services.router.problems import Problem
from services.router.request import Request
from services.router.retry import NOT_EXECUTED, Failure, cause_of, may_retry, problem_of
from services.router.slots import Grant, no_room
from services.router.table import Key
from services.router.tracing import NO_PARENT, REQUEST_NAME
from services.router.upload import Upload
from services.router.upstream import Connection
from services.router.workings import Workings

C = TypeVar("C", bound="Call")
P = ParamSpec("P")


def guarded(step: Callable[Concatenate[C, P], None]) -> Callable[Concatenate[C, P], None]:
    """Answer 500 if a step raises what it must not: nothing may be left hanging, or lost."""

    @functools.wraps(step)
    def run(call: C, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            step(call, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - it is told
            call.crash(error)

    return run


class Call(ABC):
    """The call of one request's function."""

    # What is always set first. There is no `__init__`: it doubles what making a call costs.
    _workings: Workings
    _client: Client
    _request: Request
    _request_id: bytes
    _pieces: list[bytes]
    """What is held of the request's body."""
    # What is so for most calls is not set for each.
    keep_alive = True
    """The connection may serve another request."""
    _after_id = NO_PARENT
    """What follows the id in a head."""
    parked_at = 0.0
    _began = 0.0
    _admitted: Admitted | None = None
    """What it is let in with, once it is."""
    _body_complete = False
    _reading = False
    """The client is read before a slot is taken."""
    _upload: Upload | None = None
    _unanswered = 0
    _parked = False
    _candidate: Candidate | None = None
    _cold: ColdStart | None = None
    _attempted_at = 0.0
    _sent_at = 0.0
    _connection: Connection | None = None
    _reused = False
    # The one thing that is waited for besides, and the one task there may be.
    _timer: asyncio.TimerHandle | None = None
    _connecting: asyncio.Task[None] | None = None

    @property
    def request_id(self) -> str:
        """Ties whatever this sets off to the request."""
        return self._request_id.decode("ascii")

    @property
    def _let_in(self) -> Admitted:
        assert self._admitted is not None  # noqa: S101 - before that nothing is called
        return self._admitted

    @property
    def _function(self) -> Key:
        return self._let_in.function.key

    @property
    def _silence_s(self) -> float:
        return answer_deadline_s(self._let_in.function.timeout_s, self._workings.limits)

    # What the rest of the invocation does.

    @property
    @abstractmethod
    def response_started(self) -> bool:
        """Whether the client got some of an instance's answer."""

    @abstractmethod
    def on_known(self, head: AnswerHead, data: bytes) -> None: ...

    @abstractmethod
    def on_head(self, head: AnswerHead, data: bytes, ended: bool) -> None: ...

    @abstractmethod
    def on_data(self, data: bytes, ended: bool) -> None: ...

    @abstractmethod
    def pause_body(self) -> None: ...

    @abstractmethod
    def expect_body(self) -> None: ...

    @abstractmethod
    def refuse(self, problem: Problem) -> None:
        """End with `problem`."""

    @abstractmethod
    def break_off(self) -> None:
        """End in the middle of the answer."""

    @abstractmethod
    def crash(self, error: Exception) -> None:
        """End because a step failed which must not."""

    # What the slots call.

    @guarded
    def on_grant(self, grant: Grant) -> None:
        self._parked = False
        self._stop_timer()
        now = monotonic()
        if grant.cold is not None:
            self._cold = grant.cold
            self._attempted_at = now
        self._attempt(grant.candidate, now)

    @guarded
    def on_refusal(self, problem: Problem) -> None:
        self._parked = False
        self.refuse(problem)

    # What the connection to the instance calls.

    @guarded
    def on_continue(self) -> None:
        if self._upload is not None:
            self._upload.invite()

    @guarded
    def on_failure(self, failure: Failure) -> None:
        self._connection = None
        self._fail(failure)

    @guarded
    def on_writable(self) -> None:
        if self._upload is not None:
            self._upload.flow()

    # The call.

    def _acquire(self, now: float) -> None:
        """Take a slot, or wait for one."""
        candidate = self._workings.slots.take(self._let_in.fleet, now)
        if candidate is not None:
            self._attempt(candidate, now)
        else:
            self._park(now)

    def _park(self, now: float) -> None:
        workings = self._workings
        limits = workings.limits
        self.parked_at = now
        spent = now - self._began
        within = max(0.0, min(limits.park_s, limits.transfer_s + limits.park_s - spent))
        self._parked = True
        workings.slots.park(self._function, self)
        if self._parked:
            self._timer = workings.loop.call_later(within, self._on_parked_long, within)

    @guarded
    def _on_parked_long(self, within: float) -> None:
        self._timer = None
        self._parked = False
        self._workings.slots.leave(self._function, self)
        self.refuse(no_room(within))

    def _attempt(self, candidate: Candidate, now: float) -> None:
        """Make the call on `candidate`, whose slot this has now."""
        self._candidate = candidate
        workings = self._workings
        connection = workings.pool.take(candidate.endpoint)
        if connection is not None:
            self._send(connection, now)
        else:
            self._connecting = workings.loop.create_task(self._connect(candidate.endpoint))

    async def _connect(self, endpoint: Endpoint) -> None:
        try:
            connection = await self._workings.pool.connect(endpoint)
        except ConnectFailed as failed:
            self._connecting = None
            self._reused = False
            self.on_failure(failed.failure)
        except Exception as error:  # noqa: BLE001 - it is told
            self._connecting = None
            self.crash(error)
        else:
            self._connecting = None
            self._on_connected(connection)

    @guarded
    def _on_connected(self, connection: Connection) -> None:
        if connection.usable:
            self._send(connection, monotonic())
        else:
            # It was closed at once, as by an instance that has too many.
            self._reused = False
            self._fail("refused")

    def _send(self, connection: Connection, now: float) -> None:
        """Send the request, or begin to: the upload does what is left."""
        head, admitted, silence_s = self._request, self._let_in, self._silence_s
        assert isinstance(head, Head)  # noqa: S101 - it was let in
        if self._cold is not None:
            self._sent_at = now
        self._connection = connection
        self._reused = connection.reused
        ids = (self._client.lead(head, admitted), REQUEST_NAME, self._request_id, self._after_id)
        lead = b"".join(ids)
        pieces = self._pieces
        if not self._body_complete:
            chunked = head.incoming.length == "chunked"
            data = with_token(lead, connection.endpoint.token, ask=True)
            connection.start(self, head.method, data)
            self._upload = Upload(self, connection, pieces, silence_s, chunked=chunked)
            return
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if head.incoming.length == "chunked":
            body = chunk(body) + chunk(b"") if body else chunk(b"")
        data = b"".join((lead, connection.last_lines, body))
        connection.call(self, head.method, data, now + silence_s)

    def _fail(self, failure: Failure) -> None:
        """Make the call again, or say that it failed."""
        replayable = self._upload is None or self._upload.replayable
        self._release(cause_of(failure, reused=self._reused))
        if self.response_started:
            self._workings.metrics.truncated += 1
            self.break_off()
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
            self._cold = None
            self._acquire(monotonic())
        else:
            self.refuse(problem_of(failure))

    def _tell_cold_start(self, cold: ColdStart) -> None:
        workings = self._workings
        workings.metrics.cold_starts += 1
        connect_ms = (self._sent_at - self._attempted_at) * 1000
        first_byte_ms = (monotonic() - self._sent_at) * 1000
        workings.emit(
            cold_start_event(self._function, cold, connect_ms, first_byte_ms, self.request_id)
        )

    # The end of a call.

    def _drop(self) -> None:
        """Let go of whatever is under way."""
        self._reading = False
        if self._parked:
            self._parked = False
            self._workings.slots.leave(self._function, self)
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        if self._connection is not None:
            self._connection.abandon()
            self._connection = None
        self._release("")

    def _release(self, cause: Cause | None) -> None:
        """Give the slot back, if there is one."""
        self._put_away()
        candidate, self._candidate = self._candidate, None
        if candidate is not None:
            self._workings.slots.release(candidate, cause)

    def _put_away(self) -> None:
        """Let go of what there is besides the slot."""
        self._stop_timer()
        if self._upload is not None:
            self._upload.stop()
            self._upload = None

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
