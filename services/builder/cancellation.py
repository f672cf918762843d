"""End builds that nobody wants any more, such as those of a spec that was replaced.

Compared is what is: the builds that are not finished with the claims of every
spec's last revision and of what is in force. So a restart, of this service or
of the one that asked, loses no cancellation. A build is left alone for a while
first, because a request may overtake the spec that it comes from; and should
one be ended wrongly, whoever wants it asks again.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Final

from services.builder.builder import Builder
from services.builder.claimants import Claimants

LOOK_S: Final = 10.0
"""How often to compare without any news."""


def unwanted_since(
    unfinished: AbstractSet[str],
    claimed: AbstractSet[str],
    before: Mapping[str, float],
    now: float,
) -> dict[str, float]:
    """Return since when each unfinished build is wanted by nobody; `before` is the last answer."""
    return {build: before.get(build, now) for build in unfinished - claimed}


async def cancelling(builder: Builder, claimants: Claimants, patience_s: float) -> None:
    """Cancel what nobody has wanted for `patience_s`, for ever."""
    builder.on_queued = claimants.changed.set
    await claimants.complete.wait()
    since: dict[str, float] = {}
    while True:
        claimants.changed.clear()
        now = time.monotonic()
        unfinished = builder.unfinished()
        # Putting all claims together takes as long as there are specs, for each that changes.
        claimed = claimants.claim().builds if unfinished else frozenset()
        since = unwanted_since(unfinished, claimed, since, now)
        waits = [at + patience_s - now for at in since.values()]
        for build, at in since.items():
            if now - at >= patience_s:
                builder.cancel(build)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min([LOOK_S, *(wait for wait in waits if wait > 0)])):
                await claimants.changed.wait()
