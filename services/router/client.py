"""What an invocation wants of the connection that its request came on."""

from typing import Protocol

from services.router.admission import Admitted, Head


class Client(Protocol):
    """The connection that a request came on. Its body comes by callbacks."""

    def write(self, data: bytes) -> bool:
        """Send `data`, and return whether more may follow at once."""

    def common_lines(self) -> bytes:
        """Return the header lines that stand in every answer."""

    def lead(self, head: Head, admitted: Admitted) -> bytes:
        """Return what an instance gets first: all of the head but the ids and its own lines."""

    def conclude(self, front: bytes, request_id: bytes, data: bytes, now: float) -> None:
        """Send a whole answer on a connection that stays open, and note that it is complete."""

    def expect_body(self, within_s: float) -> None:
        """Read the body, and tell the invocation if nothing comes of it for so long."""

    def pause_body(self) -> None:
        """Read nothing more of the body for now."""

    def on_answered(self, keep_alive: bool, now: float) -> None:
        """Take note that the answer is complete: the next request's turn has come."""

    def abort(self) -> None:
        """Break the connection, so that what was sent cannot pass for a complete answer."""
