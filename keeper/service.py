"""What all connections of a child share: its function, its limits and its load."""

import hmac
from collections.abc import Callable
from typing import Final, Literal, Protocol

import msgspec

from keeper.answer import Program
from keeper.budget import Share
from keeper.call import Outcome
from keeper.heads import Heads
from keeper.loop import Loop
from keeper.runner import Runner
from keeper.scoreboard import Scoreboard

MAX_CONNECTIONS: Final = 4096
MAX_BUFFERED_BYTES: Final = 512 * 1024 * 1024
"""Request bodies of all connections together; beyond it new ones are told `busy`."""

Reason = Literal["wrong-instance", "draining", "busy"]

Failed = Callable[[str, int, Outcome], None]
"""Told of each outcome that has an error or stderr: request id, HTTP status, outcome."""


class Serving(msgspec.Struct, frozen=True):
    """What the server needs to know of its function."""

    program: Program
    token: bytes
    """Empty: standalone, every request is meant for us."""
    concurrency: int
    body_bytes: int


class Service:
    """The state that all connections of a child share."""

    def __init__(
        self,
        serving: Serving,
        runner: Runner,
        scoreboard: Scoreboard,
        budget: Share,
        loop: Loop,
        report: Failed,
    ) -> None:
        self.serving = serving
        self.runner = runner
        self.scoreboard = scoreboard
        self.budget = budget
        self.loop = loop
        self.report = report
        self.heads = Heads()
        self.draining = False
        self.buffered = 0
        self.stalled = 0
        """Connections whose client does not read what was written."""
        self.connections: set[Client] = set()
        self._sweeping = False

    def refuses(self, token: bytes) -> Reason | None:
        """Return why a request with `token` is not executed here, or None."""
        expected = self.serving.token
        if expected and not hmac.compare_digest(token, expected):
            return "wrong-instance"
        if self.draining:
            return "draining"
        if self.full():
            return "busy"
        return None

    def full(self) -> bool:
        """Tell whether there is no room for one more invocation."""
        return (
            # An answer that its client does not read still takes memory.
            self.scoreboard.in_flight + self.stalled >= self.serving.concurrency
            or not self.budget.has_room()
            or self.buffered > MAX_BUFFERED_BYTES
        )

    def quiet(self) -> bool:
        """Tell whether nothing runs, arrives or waits to be sent."""
        return not self.scoreboard.in_flight and not any(c.busy for c in self.connections)

    def connected(self, connection: "Client") -> bool:
        """Take a new connection, unless there are too many."""
        if len(self.connections) >= MAX_CONNECTIONS:
            return False
        self.connections.add(connection)
        if not self._sweeping:
            self._sweeping = True
            self.loop.call_later(1.0, self._sweep)
        return True

    def _sweep(self) -> None:
        now = self.loop.time()
        for connection in list(self.connections):
            connection.check(now)
        # No timer while nobody is connected: an idle child must not wake up.
        self._sweeping = bool(self.connections)
        if self._sweeping:
            self.loop.call_later(1.0, self._sweep)


class Client(Protocol):
    """What the service asks of a connection."""

    @property
    def busy(self) -> bool:
        """Whether a request has begun to arrive or an answer is not sent yet."""

    def flush(self) -> None:
        """Send what can be sent now."""

    def check(self, now: float) -> None:
        """Close the connection if it has waited too long for its client."""
