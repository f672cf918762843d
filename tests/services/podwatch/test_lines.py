import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import LogLine
from services.podwatch.lines import MAX_TEXT, GarbageError, Meter, parse

LINE = {
    "time": "2026-01-01T00:00:00Z",
    "level": "info",
    "namespace": "default",
    "function": "sort",
    "instance": "i1",
    "request_id": "r1",
    "stream": "stderr",
    "text": "hello",
}


def raw(**changes: object) -> bytes:
    return json.dumps({**LINE, **changes}).encode()


def line(text: str = "x", function: str = "sort") -> LogLine:
    parsed = parse(raw(text=text, function=function), "default")
    assert parsed is not None
    return parsed


def test_a_line_of_a_function_is_read_whole():
    parsed = parse(raw(), "default")
    assert parsed is not None
    assert (parsed.namespace, parsed.function, parsed.instance) == ("default", "sort", "i1")
    assert (parsed.request_id, parsed.stream, parsed.text) == ("r1", "stderr", "hello")


def test_a_line_of_the_keeper_itself_is_not_passed_on():
    assert parse(raw(function="", namespace=""), "default") is None


@pytest.mark.parametrize(
    "line",
    [b"", b"Traceback", b"{", b"[]", b"\xff\xfe", raw(level="loud"), raw(time="noon"),
     raw(text=7), raw(stream="stdout"), raw(namespace=""),
     raw()[:-1] + b',"x":' + b"[" * 5000, raw().replace(b"hello", b"\xff")],
)  # fmt: skip
def test_whatever_no_keeper_writes_is_garbage(line):
    with pytest.raises(GarbageError):
        parse(line, "default")


def test_a_keeper_cannot_speak_for_another_namespace():
    with pytest.raises(GarbageError):
        parse(raw(namespace="other"), "default")
    assert parse(raw(namespace="other"), "") is not None


def test_a_long_text_is_cut():
    assert len(line("x" * (2 * MAX_TEXT)).text) == MAX_TEXT + 1


def test_lines_over_the_rate_are_dropped_and_the_next_one_says_how_many():
    meter = Meter(rate_per_s=10, burst=2)
    passed = [meter.admit(line(str(n)), now=0.0) for n in range(5)]
    assert [p.text if p else None for p in passed] == ["0", "1", None, None, None]
    after = meter.admit(line("later"), now=0.1)
    assert after is not None
    assert after.dropped == 3
    assert meter.admit(line("none left"), now=0.1) is None


def test_one_loud_function_does_not_silence_another():
    meter = Meter(rate_per_s=1, burst=1)
    assert meter.admit(line(), 0.0)
    assert not meter.admit(line(), 0.0)
    assert meter.admit(line(function="other"), 0.0)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_parser(data):
    try:
        parse(data, "default")
    except GarbageError:
        return


@given(st.lists(st.tuples(st.floats(0, 2), st.sampled_from("ab")), max_size=60))
def test_every_line_is_either_passed_or_counted_as_dropped(story):
    meter = Meter(rate_per_s=2, burst=3)
    now, passed, counted = 0.0, 0, 0
    for pause, function in story:
        now += pause
        admitted = meter.admit(line(function=function), now)
        passed += admitted is not None
        counted += admitted.dropped if admitted else 0
    for function in "ab":
        now += 10
        admitted = meter.admit(line(function=function), now)
        assert admitted is not None
        counted += admitted.dropped
    assert passed + counted == len(story)
    assert msgspec.json.encode(line())
