"""What a build's record and a request for it lead to. Pure; the time is given.

The record is all there is to know of a build: a builder that starts looks for
records that are not finished and takes them up, whoever began them.
"""

from datetime import datetime
from typing import Final

import msgspec

from schemas.builds import Artifact, Build, BuildRequest, Step, UploadSource, build_id

FIRST_WAIT_S: Final = 0.5
LAST_WAIT_S: Final = 30.0


def finished(build: Build) -> bool:
    """Whether nothing remains to be done."""
    return build.state in ("ready", "failed", "cancelled")


def accept(
    request: BuildRequest, current: Build | None, engine: str, *, stored: bool, now: datetime
) -> Build | None:
    """Return the record that `request` makes of `current`, or None if that one answers it.

    `engine` is what modules are compiled for now, empty if that is not known
    yet; `stored` is whether the artifact of a ready build is still there. An
    artifact that is gone, or for another engine, is no answer: the same module
    is built again, so the new record keeps saying which one it was.
    """
    if current is not None:
        match current.state:
            case "queued" | "building":
                return None
            case "failed" if not request.retry:
                return None
            case "ready" if stored and _fits(current.artifact, engine):
                return None
    return Build(
        id=build_id(request.source),
        source=request.source,
        state="queued",
        time=now,
        file_name=current.file_name if current else None,
        artifact=current.artifact if current else None,
        correlation=request.correlation,
    )


def _fits(artifact: Artifact | None, engine: str) -> bool:
    return artifact is not None and engine in ("", artifact.engine)


def module_digest(build: Build) -> str | None:
    """Return the digest of the module to build, where it is known before it is fetched."""
    if isinstance(build.source, UploadSource):
        return build.source.sha256
    return build.artifact.module if build.artifact else None


def building(build: Build, steps: tuple[Step, ...], now: datetime) -> Build:
    """Return the record of a build that has come as far as `steps`."""
    return msgspec.structs.replace(build, state="building", time=now, steps=steps)


def ready(
    build: Build,
    file_name: str,
    artifact: Artifact,
    image: str,
    memory_bytes: int,
    steps: tuple[Step, ...],
    now: datetime,
) -> Build:
    """Return the record of a build that has all it should."""
    return msgspec.structs.replace(
        building(build, steps, now),
        state="ready",
        file_name=file_name,
        artifact=artifact,
        image=image,
        memory_bytes=memory_bytes,
        error=None,
    )


def waiting(build: Build, reason: str, now: datetime) -> Build:
    """Return the record of a build that will be tried again; `reason` is one sentence."""
    return msgspec.structs.replace(build, time=now, error=reason)


def failed(build: Build, error: str, now: datetime) -> Build:
    """Return the record of a build that cannot succeed; `error` is one sentence."""
    return msgspec.structs.replace(
        build, state="failed", time=now, error=error, artifact=None, image=None
    )


def cancelled(build: Build, now: datetime) -> Build:
    """Return the record of a build that nobody wants any more. Whoever asks again begins it anew.

    The artifact that an earlier build of it has made stays known, as in `accept`.
    """
    return msgspec.structs.replace(
        build, state="cancelled", time=now, error="no spec wants it any more", image=None
    )


def wait_s(waited_s: float, give_up_s: float) -> float | None:
    """Return how long to wait before the next try, or None to give up.

    Each wait is as long as all before it together, so doubling needs no counter.
    """
    if waited_s >= give_up_s:
        return None
    return min(max(waited_s, FIRST_WAIT_S), LAST_WAIT_S, max(give_up_s - waited_s, FIRST_WAIT_S))
