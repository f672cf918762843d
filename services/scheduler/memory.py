"""What was in force in the last term of this process, in case NATS loses its data.

The bus remembers for everyone, until its data directory is lost. Then whoever led
last is the only one who knows what was in force and where it serves, and writes it
down again in its next term. Specs are not ours to write: what is in force stays,
marked as being without one, until they are published again.
"""

from collections.abc import Iterator
from datetime import datetime

import msgspec

from schemas.active import Active, ActiveFunction
from schemas.endpoints import Endpoint
from services.scheduler.world import REMEMBERED, World

_LEFT_OVER = REMEMBERED - 1
"""Revision of an endpoint that was about to be replaced."""


class Memory:
    """What the last leader of this process knew, and of which stream."""

    def __init__(self) -> None:
        self._world: World | None = None
        self._created: datetime | None = None

    def keep(self, world: World, created: datetime | None) -> None:
        """Remember the world of a term that has read everything; `created`: ACTIVE's."""
        self._world, self._created = world, created

    def lost(self, created: datetime | None) -> World | None:
        """Return what was known of a stream ACTIVE other than this one, if there was one."""
        return None if created == self._created else self._world


def active_again(world: World) -> Iterator[Active]:
    """Yield what was in force, in a revision that none of the new streams will have."""
    of_kinds = (
        world.environments,
        world.active,
        world.routes,
        world.timers,
        world.subscriptions,
    )
    for kind in of_kinds:
        for active in kind.values():
            yield active if _is_image(active) else _as_of(active, REMEMBERED)


def endpoints_again(world: World) -> Iterator[Endpoint]:
    """Yield where it serves. What was about to be replaced still has to be drained."""
    for name, function in world.functions.items():
        active = world.active.get(name)
        for known in function.instances.values():
            if known.state == "lost" or not known.published:
                continue
            if active is None or not _is_image(active):
                current = active is not None and known.endpoint.revision == active.revision
                revision = REMEMBERED if current else _LEFT_OVER
                yield msgspec.structs.replace(known.endpoint, revision=revision)
            else:
                yield known.endpoint


def _is_image(active: Active) -> bool:
    # Its pods are labelled with their revision: another one would be other pods.
    return isinstance(active, ActiveFunction) and active.artifact is None


def _as_of(active: Active, revision: int) -> Active:
    return msgspec.structs.replace(active, revision=revision)
