"""What an attempt took is told finer than the loop's clock counts."""

from datetime import UTC, datetime

import uvloop

from schemas.invocations import Answer, Invocation
from services.router.asynchronous.attempting import attempt
from services.router.asynchronous.interruption import Interruption
from services.router.state import Function


class AtOnce:
    """Answers every call."""

    async def run(self, invocation: Invocation, function: Function) -> Answer:
        return Answer(200, (), b"", 0)


def test_an_attempt_of_less_than_a_millisecond_took_more_than_nothing() -> None:
    f = Function(("default", "f"), 1, 1.0, 1, "stdin")
    call = Invocation(
        namespace="default", function="f", id="0" * 32, accepted_at=datetime.now(UTC),
        origin="timer", correlation="c", traceparent="t",
    )  # fmt: skip
    outcome = uvloop.run(attempt(AtOnce(), call, f, 1, Interruption()))
    assert outcome.attempt.duration_ms > 0
