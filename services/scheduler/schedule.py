"""When a timer is due: cron with time zones, and what is made up for of what was missed. Pure.

A due time is a point in time in UTC, and the name of one call: asked twice, or
by two leaders, or after the clock was set back, it is the same call. Cron and
its rules for the hours that a time zone skips or repeats are those of Debian's
cron, by the library cronsim.
"""

from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import msgspec
from cronsim import CronSim, CronSimError

from schemas.specs import TimerSpec

LATE_S: Final = 60.0
"""A call that begins later than this after its due time was missed."""
MADE_UP_MOST: Final = 100
"""No more missed calls are made up for, however long nobody could make them."""


class ScheduleError(ValueError):
    """A timer can never be due. The message is for its author."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(message)


class Due(msgspec.Struct, frozen=True):
    """The calls to make now, oldest first, and up to when all is then settled."""

    times: tuple[datetime, ...]
    until: datetime
    missed: int
    """How many of the times are made up for."""


def schedule_problem(spec: TimerSpec) -> tuple[str, str] | None:
    """Return the field that is wrong and why, in words for the timer's author, or None."""
    try:
        next_due(spec, datetime.now(UTC))
    except ScheduleError as error:
        return error.field, f"`{error.field}`: {error}"
    return None


def next_due(spec: TimerSpec, after: datetime) -> datetime:
    """Return the first due time after `after`, in UTC.

    Raises:
        ScheduleError: the schedule or its time zone is none.
    """
    try:
        return next(CronSim(spec.schedule, after.astimezone(_zone(spec)))).astimezone(UTC)
    except (CronSimError, StopIteration) as error:
        said = str(error) or "it is never due"
        message = f"{spec.schedule!r} is no schedule of cron: {said}"
        raise ScheduleError("$.schedule", message) from error


def _zone(spec: TimerSpec) -> ZoneInfo:
    try:
        return ZoneInfo(spec.timezone)
    except (ValueError, OSError, KeyError) as error:
        message = f"there is no time zone {spec.timezone!r}; use a name such as `Europe/Berlin`"
        raise ScheduleError("$.timezone", message) from error


def begin(mark: datetime | None, now: datetime) -> datetime:
    """Return after which time due times count, for a timer that is settled up to `mark`.

    A mark a little ahead of the clock is waited for: the clock was set right.
    One far ahead is from a clock that was wrong, and would silence the timer.
    """
    if mark is None or mark > now + timedelta(seconds=LATE_S):
        return now
    return mark


def due(spec: TimerSpec, after: datetime, now: datetime) -> Due | None:
    """Return what to call of the due times after `after` and up to `now`; None if there are none.

    The cost does not grow with how long nobody looked.
    """
    on_time_from = max(after, now - timedelta(seconds=LATE_S))
    on_time = []
    time = next_due(spec, on_time_from)
    while time <= now:
        on_time.append(time)
        time = next_due(spec, time)
    late = _late(spec, after, on_time_from)
    if not on_time and not late:
        return None
    until = on_time[-1] if on_time else late[-1]
    kept = {"skip": [], "last": late[-1:], "all": late}[spec.missed]
    return Due((*kept, *on_time), until, len(kept))


def _late(spec: TimerSpec, after: datetime, before: datetime) -> list[datetime]:
    """Return the last due times after `after` and up to `before`, oldest first."""
    if before <= after:
        return []
    times: list[datetime] = []
    # In reverse the start itself does not count.
    start = (before + timedelta(seconds=1)).astimezone(_zone(spec))
    for time in CronSim(spec.schedule, start, reverse=True):
        at = time.astimezone(UTC)
        if at <= after or len(times) >= MADE_UP_MOST:
            break
        if at <= before:
            times.append(at)
    return times[::-1]
