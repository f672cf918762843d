"""Which endpoint takes the next request, and which are left alone for a while.

Least in flight wins among the endpoints of the active revision that have a
slot free; other revisions serve only while the active one has nothing free.
Ties rotate, so that equal endpoints share evenly.

Ejection is passive: it follows from a failed call. It is tied to the instance,
which is never reused. An instance that says it is the wrong one, or is
draining, stays out for good; one that failed comes back after a pause that
doubles, if by then it is still published and its pod not known dead.
"""

from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec

from services.router.fleet import Candidate, Cause

FOREVER: Final = float("inf")
_BUSY_S: Final = 0.02
_FIRST_S: Final = 0.5
_LONGEST_S: Final = 30.0


class Ejection(msgspec.Struct, frozen=True):
    """Leave an endpoint alone until `until`."""

    cause: Cause
    until: float
    failures: int


def choose(
    candidates: Sequence[Candidate], active_revision: int, now: float, turn: int
) -> Candidate | None:
    """Return the endpoint for the next request, or None if none has a slot free.

    `turn` rotates where equals are looked at first; any integer will do.
    """
    count = len(candidates)
    best: Candidate | None = None
    best_active = False
    start = turn % count if count else 0
    for i in range(count):
        candidate = candidates[start + i - count]
        endpoint = candidate.endpoint
        if candidate.ejected_until > now or candidate.in_flight >= endpoint.concurrency:
            continue
        active = endpoint.revision == active_revision
        if (
            best is None
            or (active and not best_active)
            or (active == best_active and candidate.in_flight < best.in_flight)
        ):
            best, best_active = candidate, active
    return best


def eject(candidate: Candidate, cause: Cause, now: float) -> Ejection:
    """Return how `candidate` is to be ejected after a call that failed by `cause`."""
    if candidate.ejected_until == FOREVER:
        return Ejection(candidate.cause, FOREVER, candidate.failures)
    if cause in ("wrong-instance", "draining"):
        return Ejection(cause, FOREVER, candidate.failures)
    if cause == "busy":
        # Another router took the slot: no failure, but asking at once would spin.
        return Ejection(cause, max(candidate.ejected_until, now + _BUSY_S), candidate.failures)
    pause = min(_LONGEST_S, _FIRST_S * 2.0 ** min(candidate.failures, 16))
    return Ejection(cause, now + pause, candidate.failures + 1)


def next_return(candidates: Iterable[Candidate], now: float) -> float | None:
    """Return when the next ejected endpoint may be tried again, None if none will."""
    times = [c.ejected_until for c in candidates if now < c.ejected_until < FOREVER]
    return min(times, default=None)


Shortage = Literal["cold", "saturated", "failed"]


def shortage(candidates: Iterable[Candidate], now: float) -> Shortage:
    """Say why `choose` found nothing, in the words of a demand."""
    reason: Shortage = "cold"
    for candidate in candidates:
        if candidate.ejected_until <= now or candidate.cause == "busy":
            return "saturated"
        if candidate.cause not in ("wrong-instance", "draining"):
            reason = "failed"
    return reason


def silent_instances(candidates: Iterable[Candidate], now: float) -> list[str]:
    """Return the instances whose last call got no answer, for the scheduler to look at."""
    return [
        c.endpoint.instance
        for c in candidates
        if c.cause in ("refused", "failed", "timeout") and c.ejected_until > now
    ]
