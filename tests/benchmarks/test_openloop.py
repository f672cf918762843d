import pytest

from benchmarks import contestants
from benchmarks.harness import openloop
from benchmarks.harness.openloop import LATE_MS, Answered, check
from benchmarks.harness.result import WrongAnswerError

GOOD = Answered(200, 5.0, 0.1, retry_after=False)


def test_every_request_is_sent_and_answered():
    with contestants.upstream() as port:
        answers = openloop.run(port, rate=200, seconds=0.5, path="/f", body="{}")
    assert [a.status for a in answers] == [200] * 100
    assert all(a.latency_ms >= a.late_ms >= 0 for a in answers)


def test_requests_that_nobody_answers_are_told():
    port = contestants.free_port()
    answers = openloop.run(port, rate=100, seconds=0.1, path="/")
    assert [a.status for a in answers] == [0] * 10
    with pytest.raises(WrongAnswerError, match="10 x no answer"):
        check(answers, (200, 503))


def test_an_unexpected_status_refuses_the_run():
    check([GOOD], (200,))
    with pytest.raises(WrongAnswerError, match="1 x 503"):
        check([GOOD, Answered(503, 1.0, 0.1, retry_after=True)], (200,))


def test_a_generator_that_was_late_refuses_the_run():
    with pytest.raises(WrongAnswerError, match="late"):
        check([Answered(200, 200.0, LATE_MS + 1, retry_after=False)], (200,))


def test_a_run_without_requests_is_refused():
    with pytest.raises(WrongAnswerError, match="no request"):
        check([], (200,))
