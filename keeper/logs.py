"""The keeper's log: one JSON object a line on stdout, where podwatch reads it.

Shape: `{"time", "level", "text", "stream"}`, and for a function's line also
`"namespace", "function", "instance", "request_id"`. `stream` is `stderr` for
what a function printed and `keeper` for what the keeper says. Nothing waits
for a reader of the log: a line that finds the pipe full is lost, and the next one that
finds room is followed by how many were.
"""

import os
import stat
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final, Literal

import msgspec

Level = Literal["info", "warning", "error"]
MAX_LINE_CHARACTERS: Final = 8192

_encode = msgspec.json.Encoder().encode


class Origin(msgspec.Struct, frozen=True):
    """Whose line it is."""

    namespace: str = ""
    function: str = ""
    instance: str = ""


_KEEPER: Final = Origin()


class _Line(msgspec.Struct, frozen=True, omit_defaults=True):
    time: datetime
    level: Level
    text: str
    stream: Literal["stderr", "keeper"]
    namespace: str = ""
    function: str = ""
    instance: str = ""
    request_id: str = ""


def line(
    text: str,
    *,
    level: Level = "info",
    stream: Literal["stderr", "keeper"] = "keeper",
    origin: Origin = _KEEPER,
    request_id: str = "",
) -> bytes:
    """Return one log line without its newline."""
    return _encode(
        _Line(
            time=datetime.now(UTC),
            level=level,
            text=text[:MAX_LINE_CHARACTERS],
            stream=stream,
            namespace=origin.namespace,
            function=origin.function,
            instance=origin.instance,
            request_id=request_id[:128],
        )
    )


def lost_lines(count: int, origin: Origin = _KEEPER) -> bytes:
    """Return the line that stands for lines that were lost."""
    text = f"{count} lines were lost here: they came faster than they were taken"
    return line(text, level="warning", origin=origin)


def stderr_lines(stderr: bytes, origin: Origin, request_id: str) -> Iterator[bytes]:
    """Yield a log line for each line that a function wrote to stderr."""
    for text in stderr.decode("utf-8", "replace").splitlines():
        for start in range(0, len(text), MAX_LINE_CHARACTERS):
            piece = text[start : start + MAX_LINE_CHARACTERS]
            yield line(piece, stream="stderr", origin=origin, request_id=request_id)


class Log:
    """Writes lines to stdout without ever blocking on it."""

    def __init__(self) -> None:
        self._descriptor = sys.stdout.fileno()
        # Only a pipe: a file never blocks for long, and a terminal is shared.
        if stat.S_ISFIFO(os.fstat(self._descriptor).st_mode):
            os.set_blocking(self._descriptor, False)
        self._rest = b""
        self.lost = 0
        self._told = 0

    def write(self, encoded: bytes) -> None:
        """Write one line, or lose it if the reader is too slow."""
        data = self._rest + encoded + b"\n"
        try:
            written = os.write(self._descriptor, data)
        except BlockingIOError:
            self.lost += 1
            return
        except OSError:
            # Nobody reads any more, or the disk is full: serving goes on.
            self.lost += 1
            self._rest = b""
            return
        # A pipe may take half a line: the rest goes out before the next one.
        self._rest = data[written:]
        if new := self.lost - self._told:
            self._told = self.lost
            self.write(lost_lines(new))
