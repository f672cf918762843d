"""Whether a failed call may be made again on another endpoint.

A function may have effects, so a call is repeated only when it is certain that
it was not executed: nothing was sent, or the keeper said so (421). What was
sent without an answer may have run: the client gets 502 and decides itself.

The one exception is RFC 9112, section 9.3.1: a *reused* connection that closes
before any byte of the answer may have been closed before the request arrived.
There a safe method (RFC 9110, section 9.2.1) is sent again.
"""

from typing import Final, Literal

from services.router.fleet import Cause
from services.router.problems import Problem

Failure = Literal[
    "refused",
    "unreachable",
    "wrong-instance",
    "draining",
    "busy",
    "closed",
    "timeout",
    "malformed",
]
"""How a call ended before the head of an answer that the client may see.

`refused`, `unreachable`: no connection. `wrong-instance`, `draining`, `busy`: 421.
`closed`: closed or reset after the request was sent. `timeout`: no head in time.
`malformed`: the answer is not HTTP.
"""

NOT_EXECUTED: Final = frozenset({"refused", "unreachable", "wrong-instance", "draining", "busy"})
REASONS: Final[dict[bytes, Failure]] = {
    b"wrong-instance": "wrong-instance",
    b"draining": "draining",
    b"busy": "busy",
}
"""What `x-wasmfn-reason` of a keeper's 421 means. Such an answer is never passed on."""
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_UNANSWERED: Final = 2
"""Calls sent without an answer. Others are bounded by time: each failure ejects its endpoint."""


def may_retry(
    failure: Failure, *, method: str, replayable: bool, reused: bool, unanswered: int
) -> bool:
    """Return whether the call may be made once more.

    Args:
        failure: how it failed.
        method: the request's method.
        replayable: everything read of the body so far is still at hand.
        reused: the connection had served a request before.
        unanswered: how many calls were sent and got no answer, this one included.
    """
    if not replayable:
        return False
    if failure in NOT_EXECUTED:
        return True
    return failure == "closed" and reused and method in SAFE_METHODS and unanswered < MAX_UNANSWERED


_DETAILS: Final = {
    "closed": "the function's process closed the connection before it answered; whether it ran is"
    " not known, so the request was not repeated: repeat it if that is safe",
    "malformed": "the function's process sent something that is no HTTP answer; see its log",
    "timeout": "the function did not answer within its timeout; make it faster, or raise"
    " `limits.timeout_s`",
}


def problem_of(failure: Failure) -> Problem:
    """Return what a client is told when a failure is final."""
    if failure in NOT_EXECUTED:
        detail = "no instance took the request, and it was not executed; send it again"
        return Problem(503, detail, retry_after_s=1.0)
    return Problem(504 if failure == "timeout" else 502, _DETAILS[failure])


def cause_of(failure: Failure, *, reused: bool) -> Cause:
    """Return why the endpoint is to be left alone, or nothing if it is not to blame."""
    match failure:
        case "wrong-instance" | "draining" | "busy" | "refused" | "timeout":
            return failure
        case "closed" if reused:
            # It may only have been tired of an idle connection; a dead one refuses the next.
            return ""
        case _:
            return "failed"
