"""wasmfn.render: data to lines."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import LogLine, new_event
from wasmfn import render


def test_columns_are_aligned_and_rows_end_without_blanks() -> None:
    lines = render.table(["NAME", "PHASE"], [["sort", render.phase("active")], ["a-long-name", ""]])
    assert [render.plain(line) for line in lines] == [
        "NAME         PHASE",
        "sort         active",
        "a-long-name",
    ]


@given(st.text())
def test_nothing_that_a_function_says_controls_the_terminal(text: str) -> None:
    line = LogLine(datetime.now(UTC), "default", "sort", text, "stderr", text)
    event = new_event("router", "default", "function", text, text, text)
    shown = render.plain(render.log_line(line)) + render.plain(render.event(event))
    shown += "".join(render.plain(row) for row in render.table(["A"], [[text]]))
    assert not any(ord(c) < 0x20 or 0x7F <= ord(c) <= 0x9F for c in shown)


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0.123, "0.12 ms"), (9.87, "9.9 ms"), (99.9, "99.9 ms"), (310.4, "310 ms"), (4200, "4.2 s")],
)
def test_a_duration_has_about_three_digits(milliseconds: float, text: str) -> None:
    assert render.duration(milliseconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0s"), (59, "59s"), (60, "1m"), (7300, "2h"), (200000, "2d")]
)
def test_an_age_has_its_largest_unit(seconds: float, text: str) -> None:
    assert render.age(seconds) == text


def test_an_event_line_has_time_service_what_object_sentence_and_duration() -> None:
    event = new_event(
        "router", "default", "function", "sort", "cold-start", "served", duration_ms=9.9
    )
    words = render.plain(render.event(event)).split()
    assert words[1:] == ["router", "cold-start", "function", "default/sort", "served", "9.9", "ms"]
    ago = render.event(event, now=event.time + timedelta(minutes=5))
    assert render.plain(ago).split()[0] == "5m"


@pytest.mark.parametrize("what", ["active", "invocation-accepted", "dead-letter-discarded"])
def test_what_happened_pushes_nothing_out_of_its_column(what: str) -> None:
    event = new_event("router", "default", "invocation", "f", what, "said")
    first = new_event("router", "default", "invocation", "f", "x", "said")
    columns = [render.plain(render.event(e)).index("invocation default/f") for e in (event, first)]
    assert columns[0] == columns[1]


def test_steps_follow_one_another_on_one_axis() -> None:
    lines = [render.plain(line) for line in render.steps({"demand": 1, "load": 3}, width=8)]
    assert lines == [
        "  demand  ██          1.0 ms",
        "  load      ██████    3.0 ms",
    ]


@given(
    st.dictionaries(st.text(max_size=5), st.floats(0, 1e6), max_size=9),
    st.integers(min_value=1, max_value=60),
)
def test_every_step_is_seen_and_none_leaves_the_axis(steps: dict[str, float], width: int) -> None:
    for line in render.steps(steps, width):
        assert "█" in line[1].text
        assert len(line[1].text) <= width
