"""Which routers there are, and how far each has read what is in force.

An object is called active when every router serves it. Otherwise whoever
deploys and then calls would sometimes meet a router that has not heard of it.
A router that says nothing for a while is not waited for: it is gone, or cut
off, and will read what it missed when it returns.
"""

import asyncio
import time
from typing import Final

SILENT_S: Final = 3.0
"""Three of the reports that a router sends each second."""
MAX_ROUTERS: Final = 256


class Audience:
    """The routers, by what they report of themselves."""

    def __init__(self) -> None:
        self._routers: dict[str, tuple[int, float]] = {}
        self._news = asyncio.Event()

    def heard(self, router: str, sequence: int, now: float) -> None:
        """Take in that `router` has applied ACTIVE up to `sequence`."""
        if router not in self._routers and len(self._routers) >= MAX_ROUTERS:
            self._routers = {r: s for r, s in self._routers.items() if now - s[1] < SILENT_S}
            if len(self._routers) >= MAX_ROUTERS:
                return
        self._routers[router] = (sequence, now)
        self._news.set()

    def behind(self, sequence: int, now: float) -> list[str]:
        """Return the routers that speak, but have not read as far as `sequence`."""
        return [
            router
            for router, (read, at) in self._routers.items()
            if read < sequence and now - at < SILENT_S
        ]

    async def reached(self, sequence: int, within_s: float) -> bool:
        """Wait until no router is behind `sequence`; False if one still is after `within_s`."""
        deadline = time.monotonic() + within_s
        while self.behind(sequence, now := time.monotonic()):
            self._news.clear()
            try:
                async with asyncio.timeout(deadline - now):
                    await self._news.wait()
            except TimeoutError:
                return False
        return True
