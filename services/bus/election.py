"""When to claim, renew and give up a leader lease: decisions only, over plain data.

A lease is one message on one subject: who holds it, and in which term. It is
written only with the sequence it was read at, so two contenders cannot both
write. Nothing in it is a time: each contender measures with its own monotonic
clock, and only how long ago it saw or sent something.

Why two never lead at once: a leader's time counts from when it *sent* the last
renewal that was stored, and ends after `LEASE_S`. A standby's patience counts
from when it *saw* that renewal, which is later, and ends after `TAKEOVER_S`,
which is longer. The difference is what two clocks may drift apart meanwhile.

Terms outlast the stream: where nothing is on the subject, the next one is at least
the time, so that a keeper which has obeyed a leader of the old stream takes the new
one for a later one, even if no process remembers it.

The shell is `services.bus.lease`.
"""

from typing import Final

import msgspec

from schemas.leases import Lease

RENEW_S: Final = 0.5
LEASE_S: Final = 1.5
TAKEOVER_S: Final = 2.0
HEAD_START_S: Final = 1.0
"""How much longer others wait than the last leader when the stream was lost: it remembers."""

NOBODY: Final = ""
"""The holder of a lease that was released: the next one need not wait."""


class Contender(msgspec.Struct, frozen=True):
    """What one contender knows. Times are seconds of its own monotonic clock."""

    me: str
    """Unique per process start: a restarted process is another contender."""
    sequence: int = 0
    """Of the last message seen on the lease's subject; 0 if there is none."""
    lease: Lease | None = None
    seen_at: float = 0.0
    renewed_at: float | None = None
    """When the last renewal that was stored was sent; None while not leading."""
    top_term: int = 0


class Write(msgspec.Struct, frozen=True):
    """Publish `lease`, expecting `expected` to be the last sequence, before `by`."""

    lease: Lease
    expected: int
    by: float


class Wait(msgspec.Struct, frozen=True):
    """Nothing to do until `until`, or until something is seen."""

    until: float


class StepDown(msgspec.Struct, frozen=True):
    """The lease could not be renewed in time: stop leading now."""


Decision = Write | Wait | StepDown


def decide(c: Contender, now: float, first_term: int = 1) -> Decision:
    """Return what to do at `now`. On an empty subject, terms begin with `first_term` at least."""
    if c.renewed_at is not None and c.lease is not None:
        ends = c.renewed_at + LEASE_S
        if now >= ends:
            return StepDown()
        if now < c.renewed_at + RENEW_S:
            return Wait(c.renewed_at + RENEW_S)
        return Write(c.lease, c.sequence, by=ends)
    # A lease in our own name is from a claim whose answer was lost: nobody leads by it.
    if c.lease is None or c.lease.holder in (NOBODY, c.me) or now >= c.seen_at + TAKEOVER_S:
        term = c.top_term + 1 if c.sequence else max(c.top_term + 1, first_term)
        return Write(Lease(c.me, term), c.sequence, by=now + LEASE_S)
    return Wait(c.seen_at + TAKEOVER_S)


def observe(c: Contender, sequence: int, lease: Lease, now: float) -> Contender:
    """Take in a message seen on the subject. Old news changes nothing."""
    if sequence <= c.sequence:
        return c
    deposed = c.lease is None or lease != c.lease
    return msgspec.structs.replace(
        c,
        sequence=sequence,
        lease=lease,
        seen_at=now,
        renewed_at=None if deposed else c.renewed_at,
        top_term=max(c.top_term, lease.term),
    )


def stored(c: Contender, sequence: int, lease: Lease, sent_at: float) -> Contender:
    """Take in that our own write was stored: we lead, counted from when it was sent."""
    if sequence < c.sequence:
        return c  # Somebody else's later message was seen already.
    return msgspec.structs.replace(
        c,
        sequence=sequence,
        lease=lease,
        seen_at=sent_at,
        renewed_at=sent_at,
        top_term=max(c.top_term, lease.term),
    )


def step_down(c: Contender) -> Contender:
    """Stop leading; the lease on the bus stays as it is."""
    return msgspec.structs.replace(c, renewed_at=None)


def outdone(c: Contender, term: int) -> Contender:
    """Stop leading, since there has been a leader in `term`: the next claim is for a later one."""
    return msgspec.structs.replace(c, renewed_at=None, top_term=max(c.top_term, term))


def emptied(c: Contender, now: float) -> Contender:
    """Take in that the subject holds nothing any more, as in a replaced stream.

    Terms go on from the highest one seen. A leader that has not noticed yet is
    given its time: the next claim waits for it. The last leader waits less than
    others, since it alone remembers what was in force.
    """
    last = c.lease is not None and c.lease.holder == c.me
    return msgspec.structs.replace(
        c,
        sequence=0,
        lease=Lease("?", c.top_term),
        seen_at=now if last else now + HEAD_START_S,
        renewed_at=None,
    )


def leads(c: Contender, now: float) -> bool:
    """Whether `c` may act as the leader at `now`."""
    return c.renewed_at is not None and now < c.renewed_at + LEASE_S
