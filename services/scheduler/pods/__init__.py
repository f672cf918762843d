"""Where keepers run: the seam between the scheduler and a platform.

`processes` runs them on this machine, `kubernetes` on a cluster. A runtime
starts, lists and stops pods and says that one has ended; whether a keeper
answers, and with which engine, is told by podwatch, on every platform alike.
"""

from collections.abc import AsyncIterator
from typing import Protocol

import msgspec


class Pod(msgspec.Struct, frozen=True):
    """A keeper pod that was started and has not ended."""

    uid: str
    name: str
    labels: dict[str, str]
    waits: str = ""
    """What it waits for before its process can run, in words; empty: it runs."""
    outdated: bool = False
    """It was made from another image, or with other settings, than one made now would be."""


class PodError(Exception):
    """The platform did not do it. The message is one sentence."""


class PodRuntime(Protocol):
    """A platform that runs keeper pods."""

    async def list(self) -> list[Pod]:
        """Return every pod of ours that has not ended, whoever started it.

        One that somebody else has told to end, as when a node is drained, counts as ended: it
        takes nothing new.

        Raises:
            PodError: the list could not be read *whole*. An incomplete list is never returned.
        """

    async def start(self, labels: dict[str, str]) -> Pod:
        """Start a keeper. It becomes known to podwatch by itself.

        Raises:
            PodError: it could not be started.
        """

    async def stop(self, uid: str, patience_s: float) -> None:
        """End a pod: in order, and by force after `patience_s`.

        Returns when it has ended; an unknown uid has.

        Raises:
            PodError: it may still run.
        """

    def ended(self) -> AsyncIterator[str]:
        """Yield the uid of each pod that ended, however it ended, while iterated."""
