"""What a router reports of its functions."""

from services.router.activity import read_activity, served_since
from services.router.state import Function, State
from tests.services.router.gate import Gate

KEY = ("default", "f")


def test_answers_are_told_once_and_those_of_no_function_never() -> None:
    state = State()
    state.fleet(KEY).count(200, 0.1)
    state.nobody.count(404, 0.1)
    first = state.answers()
    assert served_since({}, first) == {KEY: 1}
    assert served_since(first, state.answers()) == {}
    state.fleet(KEY).count(500, 0.1)
    assert served_since(first, state.answers()) == {KEY: 1}


def test_a_function_made_anew_begins_to_count_anew() -> None:
    state = State()
    function = Function(KEY, 1, timeout_s=1.0, body_bytes=1)
    state.put_function(function)
    for _ in range(3):
        state.fleet(KEY).count(200, 0.1)
    before = state.answers()
    state.remove_function(KEY)
    state.put_function(function)
    state.fleet(KEY).count(200, 0.1)
    assert served_since(before, state.answers()) == {}
    assert served_since({}, state.answers()) == {KEY: 1}


async def test_a_call_that_ended_between_two_reports_is_in_the_second(gate: Gate) -> None:
    await gate.instance()
    assert (await gate.request("POST", "/f", b"x")).status == 200
    assert not read_activity("r", gate.slots).functions
    served = served_since({}, gate.state.answers())
    [one] = read_activity("r", gate.slots, 0, served).functions
    assert (one.namespace, one.function, one.in_flight, one.served) == ("default", "f", 0, 1)
