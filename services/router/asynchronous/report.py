"""What an attempt came to, as it is told: attempts, results, dead letters and events.

Pure, but that an event gets the time and an id of its own.
"""

from datetime import datetime

import msgspec

from schemas.events import Event, Level, new_event
from schemas.invocations import Answer, Attempt, DeadLetter, Invocation, Result, State
from schemas.specs import Interface
from schemas.unreadable import UNREADABLE
from services.router.asynchronous.policy import Dead

_ERROR_CHARACTERS = 300
RUN_FAILED = 500
"""What a failed run of the interface `args` counts as, as for a client that asks for raw output."""


class _Run(msgspec.Struct):
    """The part of the keeper's JSON that says whether a run succeeded."""

    status: int = 0
    error: str = ""


def answered(
    number: int, answer: Answer, interface: Interface, began_at: datetime, duration_ms: float
) -> Attempt:
    """Return the attempt that ended with `answer`."""
    status, error = answer.status, ""
    if interface == "args" and status == 200 and (failure := _failed_run(answer)) is not None:
        status, error = RUN_FAILED, f"the run failed: {failure}"
    elif not 200 <= status < 300:
        error = f"it answered {status}"
    return Attempt(
        number,
        "failed" if error else "done",
        status,
        error[:_ERROR_CHARACTERS],
        began_at,
        duration_ms,
    )


def unanswered(
    number: int, status: int, detail: str, began_at: datetime, duration_ms: float
) -> Attempt:
    """Return the attempt that got no answer."""
    return Attempt(number, "failed", status, detail[:_ERROR_CHARACTERS], began_at, duration_ms)


def result_of(
    invocation: Invocation,
    state: State,
    now: datetime,
    attempts: tuple[Attempt, ...] = (),
    *,
    message: str = "",
    answer: Answer | None = None,
    next_attempt_at: datetime | None = None,
) -> Result:
    """Return what is told at the location."""
    return Result(
        namespace=invocation.namespace,
        function=invocation.function,
        id=invocation.id,
        run=invocation.run,
        state=state,
        accepted_at=invocation.accepted_at,
        changed_at=now,
        origin=invocation.origin,
        origin_name=invocation.origin_name,
        correlation=invocation.correlation,
        digest=invocation.digest,
        attempts=attempts,
        next_attempt_at=next_attempt_at,
        message=message,
        answer=answer,
    )


def letter_of(
    invocation: Invocation, dead: Dead, now: datetime, attempts: tuple[Attempt, ...]
) -> DeadLetter:
    """Return the dead letter."""
    return DeadLetter(
        namespace=invocation.namespace,
        function=invocation.function,
        id=invocation.id,
        time=now,
        reason=dead.reason,
        message=dead.message,
        attempts=attempts,
        invocation=invocation,
    )


def sentence(attempt: Attempt, what: str) -> str:
    """Return what became of an attempt, in words for the event log."""
    status = f" with status {attempt.status}" if attempt.status else ""
    return f"attempt {attempt.number}{status} {what}"


def event_of(
    about: Invocation | Result,
    what: str,
    message: str,
    attempt: Attempt | None = None,
    level: Level = "info",
) -> Event:
    """Return what the event log is told; nothing of the request or its answer is in it."""
    fields = {"status": attempt.status, "attempt": attempt.number} if attempt else {}
    return new_event(
        "router", about.namespace, "function", about.function, what,
        f"invocation {about.id} of {about.function}: {message}",
        level=level, correlation=about.correlation,
        duration_ms=attempt.duration_ms if attempt else None,
        invocation=about.id, origin=about.origin, **fields,
    )  # fmt: skip


def _failed_run(answer: Answer) -> str | None:
    """Return why a run failed that the keeper's JSON tells of, or None if it succeeded."""
    if ("content-type", "application/json") not in answer.headers:
        return None  # Raw output, which is answered with 200 only for a success.
    if answer.truncated:
        # It begins with its status, and what is missing is output.
        return "see its output" if answer.body.startswith(b'{"status":1') else None
    try:
        run = msgspec.json.decode(answer.body, type=_Run)
    except UNREADABLE:
        return None
    return (run.error or "see its output") if run.status else None
