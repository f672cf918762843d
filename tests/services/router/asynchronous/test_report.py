"""What an answer means: a run of `args` that failed is a failure, whatever its HTTP status."""

from datetime import UTC, datetime

import msgspec
import pytest

from schemas.invocations import Answer, Invocation
from schemas.specs import Interface
from services.router.asynchronous.report import answered, event_of, result_of, sentence

NOW = datetime.now(UTC)


def answer(status: int, body: bytes, content_type: str = "application/json") -> Answer:
    return Answer(status, (("content-type", content_type),), body, len(body))


@pytest.mark.parametrize(
    ("given", "interface", "outcome", "status"),
    [
        (answer(200, b'{"status":0,"output":["1"]}'), "args", "done", 200),
        (answer(200, b'{"status":1,"error":"trap"}'), "args", "failed", 500),
        (answer(200, b'{"status":1}', "text/plain"), "args", "done", 200),
        (answer(200, b'{"status":1}'), "stdin", "done", 200),
        (answer(200, b'{"status":1,"error":"\xff"}'), "args", "done", 200),
        (answer(200, b'{"status":1,"x":' + b"[" * 5000), "args", "done", 200),
        (answer(204, b""), "wagi", "done", 204),
        (answer(302, b""), "wagi", "failed", 302),
        (answer(400, b'{"status":1}'), "args", "failed", 400),
        (answer(504, b'{"status":1}'), "args", "failed", 504),
    ],
)
def test_an_answer_is_a_success_or_a_failure_with_a_status(
    given: Answer, interface: Interface, outcome: str, status: int
) -> None:
    attempt = answered(1, given, interface, NOW, 1.0)
    assert (attempt.outcome, attempt.status) == (outcome, status)
    assert bool(attempt.error) == (outcome == "failed")


@pytest.mark.parametrize(
    ("begin", "outcome"), [(b'{"status":0,', "done"), (b'{"status":1,', "failed")]
)
def test_a_truncated_answer_still_says_whether_its_run_succeeded(
    begin: bytes, outcome: str
) -> None:
    given = Answer(200, (("content-type", "application/json"),), begin + b'"output":["x', 9, True)
    assert answered(1, given, "args", NOW, 1.0).outcome == outcome


def test_the_event_log_is_told_of_an_attempt_and_of_nothing_that_was_sent() -> None:
    call = Invocation(
        namespace="default", function="f", id="0" * 32, accepted_at=NOW, origin="http",
        correlation="c", traceparent="t", target="/f?key=hunter2",
        headers=(("x-api-key", "hunter2"),), body=b"hunter2",
    )  # fmt: skip
    given = answer(500, b"hunter2", "text/plain")
    attempt = answered(3, given, "stdin", NOW, 1.5)
    result = result_of(call, "dead", NOW, (attempt,), answer=given)
    for about in (call, result):
        event = event_of(about, "invocation-dead", sentence(attempt, "is the last"), attempt)
        assert event.message.endswith("of f: attempt 3 with status 500 is the last")
        assert (event.correlation, event.duration_ms) == ("c", 1.5)
        assert event.fields["invocation"] == call.id
        assert b"hunter2" not in msgspec.json.encode(event)
