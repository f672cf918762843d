"""Whether a request's head lets it in, and which function it is for.

What can be said from the head alone is said here, before any of the body is
read: framing, path, route, function, announced size.
"""

# ruff: noqa: N818 - the names say what happened; a suffix would add nothing

from collections.abc import Sequence
from typing import NamedTuple

from schemas.invocations import RESERVED_PATH
from services.router.asynchronous.identity import prefers_async
from services.router.framing import BadRequest, Header, Incoming, read_request
from services.router.paths import BadPath, decode_path, host_name
from services.router.problems import Problem
from services.router.state import Function, State
from services.router.table import Match, WrongMethod


class Refused(Exception):
    """The router answers this request itself."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(problem.detail)


class Admitted(NamedTuple):
    """A request that may be made."""

    incoming: Incoming
    match: Match
    function: Function


def admit(
    state: State, version: str, method: str, path: bytes, headers: Sequence[Header]
) -> Admitted | None:
    """Return what the request is, by its head; None if it is no plain invocation.

    Args:
        state: what is in force.
        version: "1.0" or "1.1".
        method: the method.
        path: the target's path as it was sent, without the query.
        headers: names in lower case.

    Raises:
        Refused: it is answered with this problem.
    """
    try:
        incoming = read_request(version, headers)
        decoded = decode_path(path.decode("latin-1"))
    except BadRequest as bad:
        raise Refused(Problem(bad.status, bad.detail, close=True)) from None
    except BadPath as bad:
        raise Refused(Problem(400, str(bad))) from None
    if decoded.startswith(RESERVED_PATH) or prefers_async(headers):
        return None
    match = _match(state, host_name(incoming.host.decode("latin-1")), method, decoded)
    function = state.functions.get(match.route.function)
    if function is None:
        detail = "the route's function is not there yet; deploy it, or send the request later"
        raise Refused(Problem(503, detail, retry_after_s=5.0))
    return Admitted(incoming, match, function)


def _match(state: State, host: str, method: str, path: str) -> Match:
    found = state.table.match(host, method, path)
    if found is None and not state.complete:
        detail = "the router is still reading its routes; send the request again"
        raise Refused(Problem(503, detail, retry_after_s=1.0))
    if found is None:
        raise Refused(Problem(404, "no route matches this host and path; check the URL"))
    if isinstance(found, WrongMethod):
        detail = f"the path is served, but not for {method}; use {', '.join(found.allowed)}"
        raise Refused(Problem(405, detail, allow=found.allowed))
    return found


def too_large(limit: int) -> Problem:
    """Return the refusal of a body above the function's limit."""
    detail = f"the function takes bodies of up to {limit} bytes; send less, or raise"
    return Problem(413, detail + " `limits.body_bytes`")


def too_slow() -> Problem:
    """Return the refusal of a body that stopped coming, or came too slowly in all."""
    return Problem(408, "the request's body did not come in time; send it faster", close=True)
