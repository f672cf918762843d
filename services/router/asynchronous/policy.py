"""What becomes of an invocation after an attempt: done, tried again, dead, or cancelled.

Each delivery of a message is one attempt, so the server counts them, and a
router that dies in the middle cannot lose count. The server itself never gives
a message up: the last attempt is ours to call the last, and its dead letter is
written while the message is still in the queue.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from schemas.invocations import Attempt, Reason
from schemas.specs import Retry

TRY_LATER: Final = frozenset({408, 425, 429})
"""They promise that the same request may succeed later (RFC 9110, RFC 8470, RFC 6585)."""


class Done(msgspec.Struct, frozen=True):
    """It succeeded."""


class Again(msgspec.Struct, frozen=True):
    """It is tried again after a pause."""

    delay_s: float


class Dead(msgspec.Struct, frozen=True):
    """It is not tried again."""

    reason: Reason
    message: str


class Cancelled(msgspec.Struct, frozen=True):
    """It is not tried again, because nobody wants it any more."""


Verdict = Done | Again | Dead | Cancelled


def judge(attempt: Attempt, retry: Retry, chance: float, *, unwanted: bool = False) -> Verdict:
    """Return what becomes of an invocation after `attempt`.

    Args:
        attempt: the last one.
        retry: the function's policy.
        chance: a random number from 0 to 1, for the jitter.
        unwanted: somebody has cancelled it meanwhile.
    """
    if attempt.outcome == "done":
        return Done()
    if unwanted:
        return Cancelled()
    if attempt.outcome == "failed" and is_final(attempt.status, retry.final):
        return Dead("final-status", f"{attempt.error}, which the function's policy calls final")
    if attempt.number >= retry.attempts:
        times = f"{attempt.number} attempts" if attempt.number > 1 else "its only attempt"
        return Dead("attempts-spent", f"{times} failed, the last because {attempt.error}")
    return Again(delay_s(attempt.number, retry, chance))


def delay_s(attempt: int, retry: Retry, chance: float) -> float:
    """Return the pause after attempt number `attempt`, in seconds.

    It doubles and is capped first; jitter then only shortens it, so that the cap holds.
    """
    # A float has room for 2**1023.
    whole = min(retry.first_delay_s * 2.0 ** min(attempt - 1, 1000), retry.max_delay_s)
    return whole * (1.0 - retry.jitter * chance)


def is_final(status: int, final: Sequence[str]) -> bool:
    """Return whether `final` names `status` itself, or its class and it is no promise."""
    if str(status) in final:
        return True
    return f"{status // 100}xx" in final and status not in TRY_LATER


def with_lost(known: Sequence[Attempt], number: int) -> tuple[Attempt, ...]:
    """Return the attempts before `number`: those that are known, and for each gap a lost one."""
    by_number = {attempt.number: attempt for attempt in known}
    return tuple(
        by_number.get(n) or Attempt(n, "lost", error="its router ended in the middle of it")
        for n in range(1, number)
    )
