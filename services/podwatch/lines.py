"""What a keeper's log line says, and how many of a function's lines get through.

Pure. A keeper writes one JSON object a line: `{"time", "level", "namespace",
"function", "instance", "request_id", "stream", "text"}`. What a function prints
is only ever inside `text`; whatever is not such a line, or speaks for another
namespace than the keeper's own, is not passed on.
"""

from datetime import datetime
from typing import Final, Literal

import msgspec

from schemas.events import Level, LogLine
from schemas.unreadable import UNREADABLE

RATE_PER_S: Final = 500.0
"""Lines of one function that get through each second, over time."""
BURST: Final = 5000.0
MAX_TEXT: Final = 8192
"""Characters of one line that get through."""
_MAX_FUNCTIONS: Final = 4096


class _KeeperLine(msgspec.Struct, frozen=True):
    """A line of a keeper's log. A line without a function is the keeper's own."""

    time: datetime
    text: str
    level: Level = "info"
    namespace: str = ""
    function: str = ""
    instance: str = ""
    request_id: str = ""
    stream: Literal["stderr", "keeper"] = "keeper"


_decode = msgspec.json.Decoder(_KeeperLine).decode


class GarbageError(ValueError):
    """A line that no keeper writes."""


def parse(raw: bytes, namespace: str) -> LogLine | None:
    """Return the line of a function, or None if it is the keeper's own.

    Args:
        raw: without its newline.
        namespace: the one that the keeper belongs to; empty means any.

    Raises:
        GarbageError: it is no such line, or speaks for another namespace.
    """
    try:
        line = _decode(raw)
    except UNREADABLE as error:
        raise GarbageError(str(error)) from None
    if not line.function:
        return None
    if not line.namespace or namespace not in ("", line.namespace):
        raise GarbageError(f"a keeper of {namespace} does not speak for {line.namespace!r}")
    text = line.text if len(line.text) <= MAX_TEXT else line.text[:MAX_TEXT] + "…"
    return LogLine(
        time=line.time,
        namespace=line.namespace,
        function=line.function,
        instance=line.instance,
        stream=line.stream,
        text=text,
        level=line.level,
        request_id=line.request_id,
    )


class Meter:
    """Lets through so many lines of each function, and says how many it did not.

    A token bucket for each function: `BURST` lines at once, `RATE_PER_S` over time.
    """

    def __init__(self, rate_per_s: float = RATE_PER_S, burst: float = BURST) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._buckets: dict[tuple[str, str], tuple[float, float]] = {}
        """Tokens left and when that was, by namespace and function."""
        self._dropped: dict[tuple[str, str], int] = {}

    def admit(self, line: LogLine, now: float) -> LogLine | None:
        """Return `line`, with the number dropped before it, or None if it is dropped too.

        `now` is monotonic, in seconds.
        """
        key = line.namespace, line.function
        tokens, since = self._buckets.pop(key, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._rate_per_s)
        admitted = tokens >= 1.0
        # Put back last, so that the first is the one unheard of for longest.
        self._buckets[key] = (tokens - admitted, now)
        if len(self._buckets) > _MAX_FUNCTIONS:
            oldest = next(iter(self._buckets))
            del self._buckets[oldest]
            self._dropped.pop(oldest, None)
        if not admitted:
            self._dropped[key] = self._dropped.get(key, 0) + 1
            return None
        dropped = self._dropped.pop(key, 0)
        return msgspec.structs.replace(line, dropped=dropped) if dropped else line
