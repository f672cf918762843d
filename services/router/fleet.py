"""The endpoints of a function, and what this router knows of each.

A fleet stays while its function is in force, or it has an endpoint or a call
(`State.dismiss`). So who holds one may go on to ask it: one that is forgotten
has no endpoint, and gets none any more.
"""

from typing import Literal

import msgspec

from schemas.endpoints import Endpoint
from services.router.table import Key
from services.router.tally import Tally

Cause = Literal["", "refused", "failed", "timeout", "busy", "wrong-instance", "draining"]
"""Why a call failed; empty if it was not the endpoint's fault."""


class Fleet:
    """The endpoints of one function, and what they have answered."""

    __slots__ = ("candidates", "function", "in_flight", "tally", "turn")

    def __init__(self, function: Key) -> None:
        self.function = function
        self.candidates: list[Candidate] = []
        self.in_flight = 0
        """Of all its endpoints, also of those that are gone but not yet done."""
        self.turn = 0
        """Rotates where equals are looked at first."""
        self.tally: Tally | None = None
        """None before the first answer."""

    def find(self, instance: str) -> "Candidate | None":
        """Return the endpoint of `instance`. They are few: an index takes more than it saves."""
        for candidate in self.candidates:
            if candidate.endpoint.instance == instance:
                return candidate
        return None

    def count(self, status: int, seconds: float) -> None:
        """Count one answer."""
        if self.tally is None:
            self.tally = Tally()
        self.tally.add(status, seconds)


class Candidate(msgspec.Struct, eq=False):
    """An endpoint and what this router knows of it. Times are of the monotonic clock."""

    endpoint: Endpoint
    fleet: Fleet
    in_flight: int = 0
    ejected_until: float = 0.0
    cause: Cause = ""
    failures: int = 0
    """Calls failed in a row."""
