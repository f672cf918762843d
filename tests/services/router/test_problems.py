"""Problem documents (RFC 9457)."""

import json

import pytest

from services.router.problems import Problem, encode


def test_a_problem_says_what_is_wrong_and_which_request_it_was() -> None:
    headers, body = encode(Problem(405, "use GET", allow=("GET", "HEAD"), close=True), "id-1")
    assert json.loads(body) == {
        "type": "urn:wasmfn:problem:405",
        "title": "Method not allowed",
        "status": 405,
        "detail": "use GET",
        "request_id": "id-1",
    }
    assert dict(headers) == {
        b"content-type": b"application/problem+json",
        b"content-length": str(len(body)).encode(),
        b"x-request-id": b"id-1",
        b"allow": b"GET, HEAD",
        b"connection": b"close",
    }


@pytest.mark.parametrize(
    ("seconds", "header"), [(0.0, b"1"), (0.2, b"1"), (1.0, b"1"), (7.1, b"8")]
)
def test_retry_after_is_in_whole_seconds_and_never_at_once(seconds: float, header: bytes) -> None:
    headers, _ = encode(Problem(503, "later", retry_after_s=seconds), "id")
    assert dict(headers)[b"retry-after"] == header
