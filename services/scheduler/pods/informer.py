"""Follow pods: all of them first, then each change, and all again whenever the thread is lost.

What Kubernetes calls list and watch. A watch begins at the version of the list,
so nothing falls between. When it breaks, ends in its time, or its version was
forgotten (410), everything is listed again: only a list that was answered whole
tells what is not there any more.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator
from typing import Final

import msgspec

from services.scheduler.pods.apiserver import ApiError, ApiServer
from services.scheduler.pods.objects import ApiPod

log = logging.getLogger(__name__)

_FIRST_PAUSE_S: Final = 0.1
_LAST_PAUSE_S: Final = 5.0
_LASTING_S: Final = 2.0
"""A watch that lasted this long was a good one."""


class Listed(msgspec.Struct, frozen=True):
    """All pods that there are; what is not among them is gone."""

    pods: tuple[ApiPod, ...]
    asked: float
    """When they were asked for (monotonic): what was made later may be missing."""


class Changed(msgspec.Struct, frozen=True):
    """A pod is new, or is not as it was."""

    pod: ApiPod


class Removed(msgspec.Struct, frozen=True):
    """A pod is gone; this is how it was last."""

    pod: ApiPod


async def follow(
    server: ApiServer, **selectors: str
) -> AsyncGenerator[Listed | Changed | Removed, None]:
    """Yield the pods that the selectors select and what happens to them, for as long as iterated.

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
                    pod = msgspec.json.decode(event.object, type=ApiPod)
                    yield Removed(pod) if event.type == "DELETED" else Changed(pod)
        except (ApiError, msgspec.DecodeError) as error:
            if str(error) != complaint:
                complaint = str(error)
                log.warning("cannot follow the pods of %s: %s", server.namespace, error)
        if time.monotonic() - asked >= _LASTING_S:
            pause_s = _FIRST_PAUSE_S
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, _LAST_PAUSE_S)
