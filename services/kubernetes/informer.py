"""Follow objects: all of them first, then each change, and all again whenever the thread is lost.

What Kubernetes calls list and watch. A watch begins at the version of the list,
so nothing falls between. When it breaks, ends in its time, or its version was
forgotten (410), everything is listed again: only a list that was answered whole
tells what is not there any more.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from services.kubernetes.api import ApiError, LoginError, decode
from services.kubernetes.objects import ListMetadata, WatchEvent

log = logging.getLogger(__name__)

_FIRST_PAUSE_S: Final = 0.1
_LAST_PAUSE_S: Final = 5.0
_LASTING_S: Final = 2.0
"""A watch that lasted this long was a good one."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Listing(Protocol[T_co]):
    """A list as the API server answers it."""

    @property
    def metadata(self) -> ListMetadata:
        """Where it stands among all changes."""

    @property
    def items(self) -> Sequence[T_co]:
        """All that there is."""


class Server(Protocol[T_co]):
    """Where objects of one kind are listed and watched. Both methods raise ApiError."""

    @property
    def kind(self) -> type[T_co]:
        """What an object is decoded to."""

    @property
    def what(self) -> str:
        """What is followed, in words."""

    async def list(self, **selectors: str) -> Listing[T_co]:
        """Return all of them."""

    def watch(self, version: str, **selectors: str) -> AsyncGenerator[WatchEvent, None]:
        """Yield what happened after `version`, until it is time to list again."""


class Listed(msgspec.Struct, Generic[T], frozen=True):
    """All that there are; what is not among them is gone."""

    objects: tuple[T, ...]
    asked: float
    """When they were asked for (monotonic): what was made later may be missing."""


class Changed(msgspec.Struct, Generic[T], frozen=True):
    """One is new, or is not as it was."""

    object: T


class Removed(msgspec.Struct, Generic[T], frozen=True):
    """One is gone; this is how it was last."""

    object: T


async def follow(
    server: Server[T], **selectors: str
) -> AsyncGenerator[Listed[T] | Changed[T] | Removed[T], None]:
    """Yield what the selectors select and what happens to it, for as long as iterated.

    While the API server cannot be asked nothing is yielded.
    """
    pause_s, complaint = _FIRST_PAUSE_S, ""
    while True:
        asked = time.monotonic()
        try:
            found = await server.list(**selectors)
            yield Listed(tuple(found.items), asked)
            complaint = ""
            version = found.metadata.resource_version
            async with contextlib.aclosing(server.watch(version, **selectors)) as events:
                async for event in events:
                    one = decode(event.object, server.kind)
                    yield Removed(one) if event.type == "DELETED" else Changed(one)
        except (ApiError, LoginError) as error:
            if str(error) != complaint:
                complaint = str(error)
                log.warning("cannot follow %s: %s", server.what, error)
        if time.monotonic() - asked >= _LASTING_S:
            pause_s = _FIRST_PAUSE_S
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, _LAST_PAUSE_S)
