"""Data becomes lines of text for a person. Pure: painting and printing are `wasmfn.cli.output`.

A line is a row of spans, each with the name of a style, so that one layout
serves a coloured terminal and a plain pipe. What functions and the network say
is hostile: control characters are shown, never sent to a terminal.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from schemas.events import NO_NAMESPACE, Event, Level, LogLine

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""C0, DEL and C1 controls, line separators, and what reverses the reading direction."""

_DIGEST_NAME: Final = re.compile(r"^[0-9a-f]{64}$")
_DIGEST: Final = 12
"""How many digits of a digest tell one from another for a person."""

_WHAT: Final = len("dead-letter-discarded")
"""The longest word for what happened."""

_LEVEL_STYLE: Final[dict[Level, str]] = {"info": "", "warning": "yellow", "error": "bold red"}
_PHASE_STYLE: Final = {
    "active": "green",
    "rejected": "bold red",
    "failed": "bold red",
    "pending": "yellow",
    "building": "yellow",
    "starting": "yellow",
}


class Span(NamedTuple):
    """A piece of text and the name of its style, as rich knows it."""

    text: str
    style: str = ""


Line = tuple[Span, ...]


def printable(text: str) -> str:
    r"""Return `text` with each control character written out, as `\x1b`."""
    return _CONTROL.sub(lambda m: m[0].encode("unicode_escape").decode("ascii"), text)


def plain(line: Line) -> str:
    """Return a line without its styles."""
    return "".join(span.text for span in line).rstrip()


def phase(word: str) -> Span:
    """Return the word of a phase in its colour."""
    return Span(word, _PHASE_STYLE.get(word, ""))


def table(header: Sequence[str], rows: Iterable[Sequence[str | Span]]) -> list[Line]:
    """Return a header and rows in aligned columns. Cells are made printable."""
    cells = [[Span(title, "bold") for title in header]]
    cells += [
        [
            Span(printable(cell.text), cell.style)
            if isinstance(cell, Span)
            else Span(printable(cell))
            for cell in row
        ]
        for row in rows
    ]
    widths = [max(len(row[column].text) for row in cells) for column in range(len(header))]
    return [
        tuple(
            Span(cell.text if last else cell.text.ljust(width) + "  ", cell.style)
            for cell, width, last in zip(
                row, widths, [False] * (len(row) - 1) + [True], strict=True
            )
        )
        for row in cells
    ]


def duration(milliseconds: float) -> str:
    """Return a duration with about three digits: `0.42 ms`, `12.3 ms`, `310 ms`, `4.2 s`."""
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.3g} s"
    digits = 2 if milliseconds < 1 else 1 if milliseconds < 100 else 0
    return f"{milliseconds:.{digits}f} ms"


def age(seconds: float) -> str:
    """Return an age with its largest unit: `12s`, `5m`, `3h`, `9d`. Never negative."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"


def clock(time: datetime) -> str:
    """Return the local time of day with milliseconds."""
    return time.astimezone().strftime("%H:%M:%S.%f")[:-3]


def event(entry: Event, *, now: datetime | None = None) -> Line:
    """Return an event as one line: time, service, what, object, sentence, duration.

    Args:
        entry: the event.
        now: show how long ago it was, seen from `now`, instead of the time of day.
    """
    when = clock(entry.time) if now is None else age((now - entry.time).total_seconds()).rjust(4)
    name = entry.name[:_DIGEST] if _DIGEST_NAME.match(entry.name) else entry.name
    about = name if entry.namespace == NO_NAMESPACE else f"{entry.namespace}/{name}"
    took = "" if entry.duration_ms is None else f"  {duration(entry.duration_ms)}"
    style = _LEVEL_STYLE[entry.level]
    return (
        Span(when, "dim"),
        Span(f"  {entry.service:<9}", "cyan"),
        Span(f"  {printable(entry.what):<{_WHAT}}", style or "bold"),
        Span(f"  {printable(f'{entry.kind} {about}')}  ", "dim"),
        Span(printable(entry.message), style),
        Span(took, "magenta"),
    )


def log_line(entry: LogLine) -> Line:
    """Return a line of a function's log: time, instance, text."""
    dropped = f"[{entry.dropped} lines dropped] " if entry.dropped else ""
    return (
        Span(clock(entry.time), "dim"),
        Span(f"  {printable(entry.instance)[:6]:<6}  ", "cyan"),
        Span(dropped, "yellow"),
        Span(
            printable(entry.text),
            _LEVEL_STYLE[entry.level] or ("dim" if entry.stream == "keeper" else ""),
        ),
    )


def steps(steps_ms: Mapping[str, float], width: int = 40) -> list[Line]:
    """Return steps that follow one another as bars on one time axis, `width` cells wide.

    Every step is at least one cell, so that a short one is seen.
    """
    total = sum(steps_ms.values())
    if total <= 0:
        return []
    label = max(map(len, map(printable, steps_ms)))
    lines: list[Line] = []
    begin = 0.0
    for name, took in steps_ms.items():
        first = min(int(begin / total * width), width - 1)
        last = max(first + 1, round((begin + took) / total * width))
        lines.append(
            (
                Span(f"  {printable(name):<{label}}  "),
                Span(" " * first + "█" * (last - first), "green"),
                Span(" " * (width - last) + f"  {duration(took):>8}", "magenta"),
            )
        )
        begin += took
    return lines
