"""A request as its connection hands it to an invocation, and what that wants of the connection."""

from typing import Protocol

import msgspec

from services.router.admission import Admitted
from services.router.problems import Problem
from services.router.tracing import Trace


class Request(msgspec.Struct, frozen=True, gc=False):
    """A request whose head is read and judged."""

    method: str
    version: str
    """"1.0" or "1.1"."""
    keep_alive: bool
    """The connection may serve another request."""
    trace: Trace
    verdict: Admitted | Problem


class Client(Protocol):
    """The connection that a request came on. Its body comes by callbacks."""

    def write(self, data: bytes) -> bool:
        """Send `data`, and return whether more may follow at once."""

    def common_lines(self) -> bytes:
        """Return the header lines that stand in every answer."""

    def origin_lines(self, host: bytes, chained: dict[bytes, list[bytes]]) -> bytes:
        """Return the header lines that tell an instance where the request came from."""

    def expect_body(self, within_s: float) -> None:
        """Read the body, and tell the invocation if nothing comes of it for so long."""

    def pause_body(self) -> None:
        """Read nothing more of the body for now."""

    def on_answered(self, keep_alive: bool) -> None:
        """Take note that the answer is complete: the next request's turn has come."""

    def abort(self) -> None:
        """Break the connection, so that what was sent cannot pass for a complete answer."""
