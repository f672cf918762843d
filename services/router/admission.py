"""Whether a request's head lets it in, and which function it is for.

What can be said from the head alone is said here, before any of the body is
read: framing, path, route, function.
"""

# ruff: noqa: N818 - the names say what happened; a suffix would add nothing

import msgspec

from schemas.invocations import RESERVED_PATH
from services.router.access.cors import is_preflight
from services.router.asynchronous.identity import prefers_async
from services.router.fleet import Fleet
from services.router.framing import (
    BadRequest,
    Header,
    Incoming,
    Outgoing,
    header_lines,
    outgoing,
    parameter_headers,
    read_request,
)
from services.router.paths import BadPath, decode_path, host_name
from services.router.problems import Problem
from services.router.request import Request
from services.router.state import Function, State
from services.router.table import Match, WrongMethod


class Refused(Exception):
    """The router answers this request itself."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(problem.detail)


class Admitted(msgspec.Struct, frozen=True, gc=False):
    """A request that a function takes."""

    match: Match
    function: Function
    fleet: Fleet
    parameters: bytes
    """The header lines that tell the function of the path's parameters."""
    is_plain: bool
    """Its route asks nothing more of it."""


class Head(Request):
    """What a request's head says by itself, and how it was judged last."""

    incoming: Incoming
    outgoing: Outgoing
    host: str
    """As routes name it."""
    path: str
    """Decoded."""
    admitted: Admitted | None = None
    """Only if its route asks nothing more of it."""
    edition: int = 0
    """The state's when it was admitted."""
    raw: bytes = b""
    """As it came, once it is known."""
    end: int = 0
    """Where it ends in what came, once it is known."""
    size: int = 0
    """Of the whole request, once it is known."""


def read_head(
    version: str, method: str, target: bytes, headers: list[Header], *, keep_alive: bool
) -> Head | None:
    """Return what a head says; None if it is that of no plain invocation.

    Args:
        version: "1.0" or "1.1".
        method: the method.
        target: path and query as they were sent.
        headers: names in lower case.
        keep_alive: the connection may serve another request.

    Raises:
        Refused: it cannot be served as it is.
    """
    try:
        incoming = read_request(version, headers)
        path = decode_path(target.partition(b"?")[0].decode("latin-1"))
    except BadRequest as bad:
        raise Refused(Problem(bad.status, bad.detail, close=True)) from None
    except BadPath as bad:
        raise Refused(Problem(400, str(bad))) from None
    if path.startswith(RESERVED_PATH) or prefers_async(headers) or is_preflight(method, headers):
        return None
    return Head(
        method,
        version,
        keep_alive,
        incoming,
        outgoing(method, target, incoming, headers),
        host_name(incoming.host.decode("latin-1")),
        path,
    )


def admit(state: State, head: Head) -> Admitted:
    """Return what is to be done with a request.

    Raises:
        Refused: no route or function takes it.
    """
    if head.admitted is not None and head.edition == state.edition:
        # No route or function has changed: half of what a known head would cost.
        return head.admitted
    match, function = route(state, head.host, head.method, head.path)
    values = match.values
    parameters = parameter_headers(match.route.parameters, values) if values else ()
    is_plain = match.route.gate is None
    fleet = state.fleet(function.key)
    admitted = Admitted(match, function, fleet, header_lines(parameters), is_plain)
    # What a route asks of a request is asked each time.
    head.admitted = admitted if is_plain else None
    head.edition = state.edition
    return admitted


def route(state: State, host: str, method: str, path: str) -> tuple[Match, Function]:
    """Return the route that takes a request, and its function.

    Raises:
        Refused: no route or function takes it.
    """
    match = _match(state, host, method, path)
    function = state.functions.get(match.route.function)
    if function is None:
        detail = "the route's function is not there yet; deploy it, or send the request later"
        raise Refused(Problem(503, detail, retry_after_s=5.0))
    return match, function


def _match(state: State, host: str, method: str, path: str) -> Match:
    found = state.table.match(host, method, path)
    if isinstance(found, Match):
        return found
    if isinstance(found, WrongMethod):
        detail = f"the path is served, but not for {method}; use {', '.join(found.allowed)}"
        raise Refused(Problem(405, detail, allow=found.allowed))
    if not state.complete:
        detail = "the router is still reading its routes; send the request again"
        raise Refused(Problem(503, detail, retry_after_s=1.0))
    raise Refused(Problem(404, "no route matches this host and path; check the URL"))


def too_large(limit: int) -> Problem:
    """Return the refusal of a body above the function's limit."""
    detail = f"the function takes bodies of up to {limit} bytes; send less, or raise"
    return Problem(413, detail + " `limits.body_bytes`")


def too_slow() -> Problem:
    """Return the refusal of a body that stopped coming, or came too slowly in all."""
    return Problem(408, "the request's body did not come in time; send it faster", close=True)
