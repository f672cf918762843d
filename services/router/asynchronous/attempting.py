"""Make one attempt, and say what it came to."""

import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import msgspec

from schemas.invocations import Answer, Attempt, Invocation
from services.router.asynchronous.execution import Unanswered
from services.router.asynchronous.interruption import Interrupted, Interruption
from services.router.asynchronous.report import answered, unanswered
from services.router.state import Function

GONE: Final = "the function is not in force; deploy it, or delete what calls it"
INTERRUPTED: Final = "it was cancelled, and its call was ended"
_CLIENT_LEFT: Final = 499
"""As the router counts requests whose client left: nobody waits for the answer."""


class Runner(Protocol):
    """Makes the call of a stored request."""

    def run(self, invocation: Invocation, function: Function) -> Coroutine[Any, Any, Answer]:
        """Return the answer, or raise Unanswered."""


class Outcome(msgspec.Struct, frozen=True):
    """What an attempt came to."""

    attempt: Attempt
    answer: Answer | None


async def attempt(
    runner: Runner,
    invocation: Invocation,
    function: Function | None,
    number: int,
    interruption: Interruption,
) -> Outcome:
    """Make attempt `number`; `function` is what is in force, None if nothing is."""
    began_at = datetime.now(UTC)
    # Not by the loop: uvloop's clock counts whole milliseconds.
    began = time.perf_counter()

    def failed(status: int, detail: str) -> Outcome:
        took_ms = round((time.perf_counter() - began) * 1000, 3)
        return Outcome(unanswered(number, status, detail, began_at, took_ms), None)

    if function is None:
        return failed(503, GONE)
    try:
        answer = await interruption.over(runner.run(invocation, function))
    except Interrupted:
        return failed(_CLIENT_LEFT, INTERRUPTED)
    except Unanswered as error:
        return failed(error.status, str(error))
    took_ms = round((time.perf_counter() - began) * 1000, 3)
    return Outcome(answered(number, answer, function.interface, began_at, took_ms), answer)
