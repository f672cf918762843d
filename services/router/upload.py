"""A request's body that is too long to be held: sent on as it comes.

It can be sent once only, so nothing is sent before the instance has taken the
request (`100 Continue`), and the client is read no faster than the instance
reads.
"""

import asyncio
from typing import Protocol

from services.router.framing import chunk
from services.router.limits import INVITED_S
from services.router.upstream import Connection


class Source(Protocol):
    """The client that the body comes from."""

    def pause_body(self) -> None:
        """Read no more of it for now."""

    def expect_body(self) -> None:
        """Read on, and give up if nothing comes."""


class Upload:
    """The body on its way to one instance."""

    def __init__(
        self,
        source: Source,
        connection: Connection,
        held: list[bytes],
        silence_s: float,
        *,
        chunked: bool,
    ) -> None:
        """Take what it works on.

        Args:
            source: the client, whose body is paused.
            connection: where the request's head was sent, with `Expect`.
            held: what is here already; emptied once more than that is sent.
            silence_s: how long the instance may neither read nor answer.
            chunked: the body's length is not known in advance.
        """
        self.answered = False
        """The instance's answer has begun."""
        self.replayable = True
        """Nothing was sent that is not held."""
        self._source = source
        self._connection = connection
        self._held = held
        self._silence_s = silence_s
        self._chunked = chunked
        self._invited = False
        self._complete = False
        # Some servers never say that they will take it.
        self._timer = asyncio.get_running_loop().call_later(INVITED_S, self.invite)

    def invite(self) -> None:
        """Begin to send: the instance takes the request."""
        self._timer.cancel()
        if self._invited or self.answered:
            return
        self._invited = True
        self._send(b"".join(self._held))
        if self._complete:
            self._finish()
        else:
            self.flow()

    def on_body(self, data: bytes) -> None:
        """Take a piece that came."""
        if self._invited:
            self.replayable = False
            self._held.clear()
            self._send(data)
        else:
            self._held.append(data)

    def on_body_end(self) -> None:
        """Take note that it has come whole."""
        self._complete = True
        if self._invited:
            self._finish()

    def flow(self) -> None:
        """Read the client on, or wait for the instance."""
        if not self._invited or self._complete:
            return
        if self._connection.writable:
            self._source.expect_body()
        else:
            self._source.pause_body()
        if not self.answered:
            self._connection.expect_within(None if self._connection.writable else self._silence_s)

    def stop(self) -> None:
        """Send nothing more."""
        self._timer.cancel()

    def _send(self, data: bytes) -> None:
        if data:
            self._connection.send(chunk(data) if self._chunked else data)

    def _finish(self) -> None:
        if self._chunked:
            self._connection.send(chunk(b""))
        self._connection.finish()
        if not self.answered:
            self._connection.expect_within(self._silence_s)
