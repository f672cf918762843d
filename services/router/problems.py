"""Error answers: RFC 9457 problem documents whose sentence says what to do.

Every answer that the router makes itself, instead of an instance, is one.
"""

from typing import Final

import msgspec

PROBLEM_TYPE: Final = "application/problem+json"

GONE: Final = 499
"""The status that is counted for a client that left before its answer, as nginx does."""

_TITLES: Final = {
    400: "Bad request",
    401: "Authentication needed",
    403: "Not allowed",
    404: "No such route",
    405: "Method not allowed",
    408: "Request timed out",
    409: "Not possible any more",
    413: "Request body too large",
    414: "Request target too long",
    417: "Expectation failed",
    421: "Misdirected request",
    429: "Too many requests",
    431: "Request headers too large",
    500: "Router error",
    501: "Not implemented",
    502: "No valid answer from the function",
    503: "Function unavailable",
    504: "Function timed out",
    505: "HTTP version not supported",
}


class Problem(msgspec.Struct, frozen=True):
    """An error answer before it is written."""

    status: int
    detail: str
    """One sentence for the client: what is wrong and what to do."""
    retry_after_s: float | None = None
    allow: tuple[str, ...] = ()
    close: bool = False
    """The connection cannot be used any further."""
    challenge: str = ""
    """`WWW-Authenticate`, for a 401 or 403 (RFC 9110, section 11.6.1)."""


class _Document(msgspec.Struct):
    type: str
    title: str
    status: int
    detail: str
    request_id: str


def encode(problem: Problem, request_id: str) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Return the headers and the body of the answer."""
    body = msgspec.json.encode(
        _Document(
            type=f"urn:wasmfn:problem:{problem.status}",
            title=_TITLES.get(problem.status, "Error"),
            status=problem.status,
            detail=problem.detail,
            request_id=request_id,
        )
    )
    headers = [
        (b"content-type", PROBLEM_TYPE.encode("ascii")),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id.encode("ascii")),
    ]
    if problem.retry_after_s is not None:
        # Whole seconds (RFC 9110, section 10.2.3), and never "at once".
        headers.append((b"retry-after", b"%d" % max(1, -int(-problem.retry_after_s // 1))))
    if problem.allow:
        headers.append((b"allow", ", ".join(problem.allow).encode("ascii")))
    if problem.challenge:
        headers.append((b"www-authenticate", problem.challenge.encode("ascii", "replace")))
    if problem.close:
        headers.append((b"connection", b"close"))
    return headers, body
