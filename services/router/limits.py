"""How much and how long: the bounds of one invocation.

Every wait has an end. A client that sends or reads slowly is cut by the stall
bound, one that drips just fast enough by the total bound.
"""

from typing import Final

import msgspec

INVITED_S: Final = 1.0
"""How long an instance is waited for to say `100 Continue`. Some servers never do."""
REPLAY_BYTES: Final = 64 * 1024
"""A body that is read whole within this is kept, so that the call can be made again."""
RELAY_BYTES: Final = 128 * 1024
"""Bytes of an answer held for a client that reads slower than its instance writes."""

HTTP10_BYTES: Final = 1024 * 1024
"""The largest answer of unknown length that a client of HTTP/1.0 gets: it must be held whole."""


class Limits(msgspec.Struct, frozen=True):
    """The bounds in seconds that are the same for all functions."""

    connect_s: float = 2.0
    grace_s: float = 2.0
    """What a keeper gets beyond the function's timeout to answer that it timed out."""
    stall_s: float = 20.0
    """The longest silence of a client in the middle of a body, either way."""
    transfer_s: float = 600.0
    """The longest that one body may take in all, either way."""
    park_s: float = 30.0
    """The longest wait for an endpoint."""


def answer_deadline_s(timeout_s: float, limits: Limits) -> float:
    """Return how long an instance may take from the request's last byte to the answer's head."""
    return timeout_s + limits.grace_s


class BodyMeter:
    """Counts a request's body against the function's limit."""

    __slots__ = ("limit", "received")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.received = 0

    def fits(self, more: int) -> bool:
        """Count `more` bytes and return whether the body is still within its limit."""
        self.received += more
        return self.received <= self.limit
