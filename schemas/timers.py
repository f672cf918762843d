"""How far the calls of timers are made; written by the leading scheduler for the next one."""

from datetime import datetime

import msgspec


class TimerMark(msgspec.Struct, frozen=True):
    """Every due time of a timer up to `until` is in the queue, or passed over for good."""

    until: datetime
    revision: int
    """Of the timer: another one begins anew."""
