"""What nobody can need any more: records, stored objects and image layouts.

Pure. Something is kept as long as a kept revision of a spec, or what is in
force, leads to it. It is also kept while it is young, because whoever stored or
found it may be about to publish the spec that names it; and if it is older than
the streams that would name it, because their data may have been lost.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

import msgspec

from schemas.builds import Build, UploadSource, artifact_object
from services.builder import reconcile
from services.builder.claims import Claim


class Stored(msgspec.Struct, frozen=True):
    """Something with a name, and when it was stored."""

    name: str
    time: datetime


class Ages(msgspec.Struct, frozen=True):
    """Between these two times something must have been stored to be garbage."""

    since: datetime
    until: datetime

    def hold(self, time: datetime) -> bool:
        """Whether what was stored at `time` may be garbage."""
        return self.since <= time <= self.until


class Garbage(msgspec.Struct, frozen=True):
    """What is to be removed, in this order: nothing may lead to what is gone."""

    builds: tuple[str, ...] = ()
    """Ids of builds whose records go."""
    objects: tuple[str, ...] = ()
    """Names in the bucket `modules`."""
    layouts: tuple[str, ...] = ()
    """Ids of builds whose images go."""


def ages(since: datetime, now: datetime, after_s: float) -> Ages:
    """Return the ages of garbage: after `since`, and `after_s` ago."""
    return Ages(since, now - timedelta(seconds=after_s))


def find(
    records: Iterable[Build],
    objects: Iterable[Stored],
    layouts: Iterable[Stored],
    claim: Claim,
    allowed: Ages,
) -> Garbage:
    """Return what may go, of what there is."""
    known = {build.id: build for build in records}
    dropped = {
        build.id for build in known.values() if not keeps(build, claim) and allowed.hold(build.time)
    }
    left = [build for build in known.values() if build.id not in dropped]
    needed = needed_objects(left, claim)
    return Garbage(
        builds=tuple(sorted(dropped)),
        objects=tuple(
            sorted(o.name for o in objects if o.name not in needed and allowed.hold(o.time))
        ),
        layouts=tuple(
            sorted(
                layout.name
                for layout in layouts
                if layout.name not in claim.builds
                and all(layout.name != build.id for build in left)
                and allowed.hold(layout.time)
            )
        ),
    )


def keeps(build: Build, claim: Claim) -> bool:
    """Whether a build's record has to stay."""
    return build.id in claim.builds or not reconcile.finished(build)


def needed_objects(records: Iterable[Build], claim: Claim) -> frozenset[str]:
    """Return the names of the objects that `records` and `claim` lead to."""
    found = set(claim.objects)
    for build in records:
        if isinstance(build.source, UploadSource):
            found.add(build.source.sha256)
        if build.artifact is not None:
            found.add(build.artifact.module)
            found.add(artifact_object(build.artifact.module, build.artifact.engine))
    return frozenset(found)
