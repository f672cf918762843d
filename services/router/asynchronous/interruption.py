"""End attempts that are under way here, because nobody wants them any more.

Whoever cancels writes the word first, and then tells every router. So an attempt
is listed before it claims its invocation: once somebody could find it running, it
can be ended, though its call may not have begun.
"""

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from services.router.asynchronous.store import Name

T = TypeVar("T")


class Interrupted(Exception):  # noqa: N818 - said by its name
    """Nobody wants the attempt any more."""


class Interruption:
    """Whether one attempt is to end. It is asked for at any time, and stays so."""

    def __init__(self) -> None:
        self.asked = False
        self._scope: asyncio.Timeout | None = None

    def ask(self) -> None:
        """End what runs, or what will."""
        if self.asked:
            return
        self.asked = True
        if self._scope is not None:
            self._scope.reschedule(asyncio.get_running_loop().time())

    async def over(self, call: Coroutine[Any, Any, T]) -> T:
        """Return what `call` comes to, which is cancelled when the end is asked for.

        Raises:
            Interrupted: it was.
        """
        if self.asked:
            call.close()
            raise Interrupted
        try:
            # Its time is over when somebody says so. It tells our own cancellation from others.
            async with asyncio.timeout(None) as self._scope:
                return await call
        except TimeoutError:
            if self.asked:
                raise Interrupted from None
            raise
        finally:
            self._scope = None


class Interruptions:
    """The attempts that this router makes."""

    def __init__(self) -> None:
        self._listed: dict[tuple[Name, int], list[Interruption]] = {}

    @contextlib.contextmanager
    def of(self, name: Name, run: int) -> Iterator[Interruption]:
        """List an attempt at an invocation while inside."""
        interruption = Interruption()
        # A server that forgot a delivery makes it again: there can be two.
        listed = self._listed.setdefault((name, run), [])
        listed.append(interruption)
        try:
            yield interruption
        finally:
            listed.remove(interruption)
            if not listed:
                del self._listed[name, run]

    def interrupt(self, name: Name, run: int) -> None:
        """End each attempt at this run of an invocation, if there is one here."""
        for interruption in self._listed.get((name, run), ()):
            interruption.ask()
