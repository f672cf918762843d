"""Make the call of a stored request: one attempt, whatever it takes to reach an instance.

That an instance is draining, busy or gone is no attempt: it did not run, so
another is asked, as for a request that somebody waits for. The rules are the
same (`services.router.retry`), and so are the slots, so that waiting and
stored requests share what there is.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from schemas.invocations import Answer, Fields, Invocation
from services.router.exchange import CallFailed, Exchange
from services.router.fleet import Cause
from services.router.framing import (
    Answer as Head,
)
from services.router.framing import (
    Forwarding,
    Incoming,
    read_answer,
    request_head,
    with_token,
)
from services.router.limits import Limits, answer_deadline_s
from services.router.pool import ConnectFailed, Pool
from services.router.retry import NOT_EXECUTED, Failure, cause_of, may_retry, problem_of
from services.router.slots import Grant, NoSlot, Slots
from services.router.state import Function

_HEADER_BYTES: Final = 16 * 1024
"""Of an answer's headers no more is kept."""
_INSTANCE_SAYS: Final[dict[bytes, Failure]] = {
    b"wrong-instance": "wrong-instance",
    b"draining": "draining",
    b"busy": "busy",
}


class Unanswered(Exception):  # noqa: N818 - said by its name
    """There is no answer. `status` is what a waiting client would have been told."""

    def __init__(self, status: int, detail: str) -> None:
        self.status = status
        super().__init__(detail)


class Executor:
    """Calls instances for stored requests."""

    def __init__(
        self, slots: Slots, pool: Pool, limits: Limits, answer_bytes: Callable[[], int]
    ) -> None:
        """Take what it works with; `answer_bytes` tells how much of an answer is kept."""
        self._slots = slots
        self._pool = pool
        self._limits = limits
        self._answer_bytes = answer_bytes

    async def run(self, invocation: Invocation, function: Function) -> Answer:
        """Return the function's answer, and the beginning of its body.

        Raises:
            Unanswered: there is none.
        """
        limits = self._limits
        whole = limits.park_s + function.timeout_s + limits.grace_s + limits.transfer_s
        loop = asyncio.get_running_loop()
        until = loop.time() + limits.park_s
        head = _head(invocation)
        unanswered = 0
        try:
            async with asyncio.timeout(whole):
                while True:
                    within = max(0.0, until - loop.time())
                    grant = await self._slots.acquire(function.key, invocation.correlation, within)
                    cause: Cause | None = ""
                    try:
                        answer = await self._call(head, invocation, grant, function)
                    except CallFailed as failed:
                        cause = cause_of(failed.failure, reused=failed.reused)
                        unanswered += failed.failure not in NOT_EXECUTED
                        again = may_retry(
                            failed.failure,
                            method=invocation.method,
                            replayable=True,
                            reused=failed.reused,
                            unanswered=unanswered,
                        )
                        if not again:
                            problem = problem_of(failed.failure)
                            raise Unanswered(problem.status, problem.detail) from None
                    else:
                        cause = None
                        return answer
                    finally:
                        self._slots.release(grant.candidate, cause)
        except NoSlot as refused:
            raise Unanswered(refused.problem.status, refused.problem.detail) from None
        except TimeoutError:
            raise Unanswered(504, f"the answer was not complete within {whole:g} s") from None

    async def _call(
        self, head: bytes, invocation: Invocation, grant: Grant, function: Function
    ) -> Answer:
        """Make the call once. CallFailed if there is no whole answer."""
        endpoint = grant.candidate.endpoint
        connection = self._pool.take(endpoint)
        if connection is None:
            try:
                connection = await self._pool.connect(endpoint)
            except ConnectFailed as failed:
                raise CallFailed(failed.failure, reused=False) from failed
        exchange = Exchange(connection)
        exchange.silence_s = answer_deadline_s(function.timeout_s, self._limits)
        try:
            request = with_token(head, endpoint.token) + invocation.body
            connection.start(exchange, invocation.method, request)
            connection.finish()
            connection.expect_within(exchange.silence_s)
            status, headers = await exchange.head()
            try:
                answer = read_answer(status, headers)
            except ValueError:
                raise CallFailed("malformed", reused=exchange.reused) from None
            # Without a token it is no keeper that answers, whatever it says.
            refusal = _INSTANCE_SAYS.get(answer.reason) if endpoint.token else None
            if refusal is not None:
                raise CallFailed(refusal, reused=exchange.reused)
            return await self._read(exchange, answer)
        finally:
            exchange.leave()

    async def _read(self, exchange: Exchange, head: Head) -> Answer:
        """Read the whole answer, and keep its beginning: the function is to end by itself."""
        kept = bytearray()
        size = 0
        most = self._answer_bytes()
        while data := await exchange.read():
            size += len(data)
            kept += data[: max(0, most - len(kept))]
        return Answer(
            status=head.status,
            headers=_kept_headers(head),
            body=bytes(kept),
            size_bytes=size,
            truncated=size > len(kept),
        )


def _kept_headers(head: Head) -> Fields:
    fields = []
    room = _HEADER_BYTES
    for name, value in head.headers:
        room -= len(name) + len(value)
        if room < 0:
            break
        if name != b"content-length":
            fields.append((name.decode("latin-1"), value.decode("latin-1")))
    return tuple(fields)


def _head(invocation: Invocation) -> bytes:
    """Return the head of the request, as it would be if its client waited."""
    headers = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in invocation.headers]
    parameters = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in invocation.parameters]
    return request_head(
        invocation.method,
        invocation.target.encode("latin-1"),
        Incoming(invocation.host.encode("latin-1"), len(invocation.body), expects_continue=False),
        headers,
        Forwarding(
            request_id=invocation.correlation,
            traceparent=invocation.traceparent,
            client=invocation.client,
            scheme=invocation.scheme,
            trusted=invocation.trusted,
        ),
        parameters,
    )
