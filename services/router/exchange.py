"""One call of an instance, for code that awaits: head, then body, under backpressure."""

# ruff: noqa: D102 - the callbacks are documented where they come from
# ruff: noqa: N818 - the names say what happened; a suffix would add nothing

import asyncio
import contextlib

from services.router.answer import AnswerHead
from services.router.framing import Header
from services.router.limits import RELAY_BYTES
from services.router.retry import Failure
from services.router.upstream import Connection


class CallFailed(Exception):
    """The call ended without a complete answer."""

    def __init__(self, failure: Failure, *, reused: bool) -> None:
        self.failure = failure
        self.reused = reused
        """The connection had served a request before."""
        super().__init__(failure)


class Exchange:
    """The receiver of one answer. It holds no more than about `RELAY_BYTES` of it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.reused = connection.reused
        self.ended = False
        self.silence_s: float | None = None
        """How long the instance may be silent in the middle of its answer."""
        self._continued = False
        self._head: tuple[int, list[Header]] | None = None
        self._pieces: list[bytes] = []
        self._held = 0
        self._paused = False
        self._failure: Failure | None = None
        self._changed: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None

    def on_continue(self) -> None:
        self._continued = True
        _wake(self._writable)

    def on_known(self, head: AnswerHead, data: bytes) -> None:
        self.on_head(head, data, True)

    def on_head(self, head: AnswerHead, data: bytes, ended: bool) -> None:
        self._head = (head.status, head.headers)
        self.on_data(data, ended)

    def on_data(self, data: bytes, ended: bool) -> None:
        if data:
            self._pieces.append(data)
            self._held += len(data)
        if ended:
            # The connection may serve another call by now.
            self.ended = True
        elif self._held > RELAY_BYTES and not self._paused:
            self._paused = True
            self.connection.pause_reading()
            self.connection.expect_within(None)
        elif not self._paused:
            self.connection.expect_within(self.silence_s)
        _wake(self._changed)
        _wake(self._writable)

    def on_failure(self, failure: Failure) -> None:
        self._failure = failure
        _wake(self._changed)
        _wake(self._writable)

    def on_writable(self) -> None:
        _wake(self._writable)

    @property
    def has_head(self) -> bool:
        """Whether the answer has begun."""
        return self._head is not None

    async def head(self) -> tuple[int, list[Header]]:
        """Return status and headers of the answer. CallFailed if there will be none."""
        while self._head is None:
            if self._failure is not None:
                raise CallFailed(self._failure, reused=self.reused)
            await self._change()
        return self._head

    async def read(self) -> bytes:
        """Return what has come of the body, at least a byte; empty at its end.

        Raises:
            CallFailed: the answer broke off.
        """
        while not self._pieces:
            if self.ended:
                return b""
            if self._failure is not None:
                raise CallFailed(self._failure, reused=self.reused)
            await self._change()
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces = []
        self._held = 0
        if self._paused and not self.ended:
            self._paused = False
            self.connection.resume_reading()
            self.connection.expect_within(self.silence_s)
        return data

    async def hold(self, limit: int) -> int | None:
        """Wait for the whole body, and return its length; None if that is above `limit` bytes."""
        pieces: list[bytes] = []
        size = 0
        while data := await self.read():
            size += len(data)
            if size > limit:
                return None
            pieces.append(data)
        self._pieces = pieces
        return size

    async def invited(self, within_s: float) -> bool:
        """Return whether the instance takes the body; it is also taken to if it says nothing."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not (self._continued or self._head or self._failure):
                    self._writable = asyncio.get_running_loop().create_future()
                    await self._writable
        return self._head is None and self._failure is None

    async def drain(self) -> bool:
        """Return once more of the request may be written; False if it is of no use any more.

        An instance that neither reads nor answers fails the call with `timeout`.
        """
        while not (self.connection.writable or self.ended or self._failure):
            if self._head is None:
                self.connection.expect_within(self.silence_s)
            self._writable = asyncio.get_running_loop().create_future()
            await self._writable
        if self._head is None:
            self.connection.expect_within(None)
        return not self.ended and self._failure is None

    def leave(self) -> None:
        """Give the call up, unless it has ended."""
        if not self.ended and self._failure is None:
            self.connection.abandon()

    async def _change(self) -> None:
        self._changed = asyncio.get_running_loop().create_future()
        await self._changed


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
