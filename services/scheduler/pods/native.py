"""Where functions with images of their own run: the seam between the scheduler and a cluster.

A *native* is a pod that holds one function and nothing of ours (`executor:
deployment`). A *workload* is what makes natives: so many pods of one revision of
one function. As with keepers, a runtime makes, lists and ends them, and whether
one answers is told by podwatch.
"""

from collections.abc import AsyncGenerator
from typing import Protocol

import msgspec

from schemas.active import ActiveFunction

Revision = tuple[str, str, int]
"""Namespace, function, and revision of it."""


class Native(msgspec.Struct, frozen=True, kw_only=True):
    """A pod of a function, which may not run yet or not any more."""

    uid: str
    name: str
    of: Revision
    ending: bool = False
    """It was told to end."""
    trouble: str = ""
    """What is in its way, in a sentence; empty if nothing is, as far as is known."""
    failed: bool = False
    """That does not mend itself: the pod is of no use."""


class Natives(msgspec.Struct, frozen=True):
    """All natives that there are; what is not among them is gone."""

    pods: tuple[Native, ...]
    asked: float
    """When they were asked for (monotonic): what was made later may be missing."""


class NativeGone(msgspec.Struct, frozen=True):
    """A native does not exist any more."""

    uid: str


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """What makes the natives of one revision."""

    name: str
    of: Revision
    replicas: int
    trouble: str = ""
    """Why it can make none, in a sentence."""


class RefusedError(Exception):
    """The cluster does not take a workload, and will not the next time. One sentence."""


class NativeRuntime(Protocol):
    """A cluster that runs natives. Every method raises PodError if nobody knows what came of it."""

    async def list(self) -> tuple[list[Workload], Natives]:
        """Return every workload and native of ours, whoever made it. Never incomplete."""

    async def apply(self, function: ActiveFunction, replicas: int) -> Workload:
        """Have so many natives of a function be made; harmless to repeat.

        Raises:
            RefusedError: the cluster does not take it.
        """

    async def remove(self, workload: Workload) -> None:
        """Remove a workload and its natives; harmless to repeat."""

    async def end(self, native: Native) -> None:
        """End one native, which has nothing in flight. Its workload may make another one."""

    def follow(self) -> AsyncGenerator[Natives | Native | NativeGone, None]:
        """Yield all natives, then each that is new or changed, for as long as iterated."""
