"""Request ids and trace context."""

import re

import pytest

from services.router.tracing import read_trace

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_ids_of_the_client_are_taken_over() -> None:
    trace = read_trace([(b"x-request-id", b"abc-1"), (b"traceparent", PARENT.encode())])
    assert (trace.request_id, trace.traceparent) == ("abc-1", PARENT)


def test_without_ids_there_is_a_fresh_request_id_and_no_trace_that_nobody_records() -> None:
    traces = [read_trace([]) for _ in range(1000)]
    assert all(re.fullmatch(r"[0-9a-f]{32}", trace.request_id) for trace in traces)
    assert len({trace.request_id for trace in traces}) == 1000
    assert {trace.traceparent for trace in traces} == {""}


def test_a_trace_names_the_request_if_nothing_else_does() -> None:
    assert read_trace([(b"traceparent", PARENT.encode())]).request_id == PARENT[3:35]


@pytest.mark.parametrize(
    "value", [b"", b"a b", b"a\xff", b"-x", b"x" * 129, b"a\tb", b"<script>", b"a,b"]
)
def test_a_request_id_that_is_not_sane_is_replaced(value: bytes) -> None:
    assert read_trace([(b"x-request-id", value)]).request_id.encode() != value


@pytest.mark.parametrize(
    "value",
    [b"ff" + PARENT.encode()[2:], b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01",
     b"00-0af7651916cd43dd8448eb211c80319c-" + b"0" * 16 + b"-01", PARENT.upper().encode(), b"x"],
)  # fmt: skip
def test_a_traceparent_that_is_not_valid_goes_no_further(value: bytes) -> None:
    assert read_trace([(b"traceparent", value)]).traceparent == ""
