"""What a router reports of its functions."""

from services.router.activity import read_activity, served_since
from services.router.metrics import NOBODY, Metrics
from tests.services.router.gate import Gate

KEY = ("default", "f")


def test_answers_are_told_once_and_those_of_no_function_never() -> None:
    metrics = Metrics()
    metrics.answered(KEY, 200, 0.1)
    metrics.answered(NOBODY, 404, 0.1)
    first = metrics.answers()
    assert served_since({}, first) == {KEY: 1}
    assert served_since(first, metrics.answers()) == {}
    metrics.answered(KEY, 500, 0.1)
    assert served_since(first, metrics.answers()) == {KEY: 1}


def test_a_function_made_anew_begins_to_count_anew() -> None:
    metrics = Metrics()
    for _ in range(3):
        metrics.answered(KEY, 200, 0.1)
    before = metrics.answers()
    metrics.forget(KEY)
    metrics.answered(KEY, 200, 0.1)
    assert served_since(before, metrics.answers()) == {}
    assert served_since({}, metrics.answers()) == {KEY: 1}


async def test_a_call_that_ended_between_two_reports_is_in_the_second(gate: Gate) -> None:
    await gate.instance()
    assert (await gate.request("POST", "/f", b"x")).status == 200
    assert not read_activity("r", gate.slots).functions
    served = served_since({}, gate.metrics.answers())
    [one] = read_activity("r", gate.slots, 0, served).functions
    assert (one.namespace, one.function, one.in_flight, one.served) == ("default", "f", 0, 1)
