"""Keep out whoever led before: NATS itself refuses what it still sends.

A lease tells a leader when to stop, by the leader's own clock. What it sent just
before, or sends because it slept and has not looked yet, arrives all the same.
So each term begins with a message on the *fence*, a subject of each stream that
only leaders write, and everything that is written there in this term expects that
message to be the fence's last. NATS checks that when it stores, one message after
the other: behind the fence of a term nothing of an earlier term is stored.

A fence is written with the expectation of the one before, and only if that is of
an earlier term. So terms only rise, whoever sleeps for how long and wherever.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from schemas.streams import TERM_HEADER


class Fence:
    """The fence of one stream, as it was written in one term."""

    def __init__(self, subject: str, sequence: int, term: int) -> None:
        self.subject = subject
        self.sequence = sequence
        self.term = term
        self.crowded = False
        """Several at a time are refused, as by streams with replicas (measured with NATS 2.15)."""
        self._turn = asyncio.Lock()

    @property
    def headers(self) -> dict[str, str]:
        """What a message carries that is to be stored in this term or never."""
        return {
            TERM_HEADER: str(self.term),
            "Nats-Expected-Last-Subject-Sequence": str(self.sequence),
            "Nats-Expected-Last-Subject-Sequence-Subject": self.subject,
        }

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Publish inside: one at a time where that is necessary."""
        if not self.crowded:
            yield
            return
        async with self._turn:
            yield
