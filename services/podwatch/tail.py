"""Read one growing log by whole lines, and cut it when it has grown long.

The reader goes on only when told to, so the file itself is the buffer between
a function that prints and a bus that is slow or away. A log past its bound is
truncated in place, once it is read to the end: its writer appends, so it goes
on at the beginning. A line written between the last look and the cut is lost;
that is the price of not asking the writer to cooperate.
"""

import os
from pathlib import Path
from typing import Final

import msgspec

from services.podwatch.offsets import Position

CHUNK_BYTES: Final = 64 * 1024
"""Read at once; also the longest line. A keeper's own are shorter."""
TRUNCATE_BYTES: Final = 8 * 1024 * 1024
"""A log this long is cut when it was read to its end."""
BACKLOG_BYTES: Final = 64 * 1024 * 1024
"""A log this far ahead of its reader is cut unread."""


class Line(msgspec.Struct, frozen=True):
    """One line without its newline, and where it began."""

    raw: bytes
    at: Position


class Batch(msgspec.Struct, frozen=True):
    """Whole lines, and where reading goes on once they are taken care of."""

    lines: tuple[Line, ...]
    then: Position
    skipped: int = 0
    """Lines that were too long to read, or cut unread."""


class Tail:
    """An open log. It can be read to its end even after its directory was removed."""

    waits: Final = False
    """There is never another file to go on with."""

    def __init__(self, path: Path, *, may_cut: bool = True) -> None:
        """Open the log. OSError if it cannot be; without write access it is never cut."""
        self.watched = path
        self._may_cut = may_cut
        try:
            access = os.O_RDWR if may_cut else os.O_RDONLY
            self._file = os.open(path, access | os.O_CLOEXEC | os.O_NOFOLLOW)
        except PermissionError:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            self._may_cut = False
        self.inode = os.fstat(self._file).st_ino
        self._in_long_line = False

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def read(self, position: Position) -> Batch | None:
        """Return the next whole lines, or None at the end."""
        if os.fstat(self._file).st_size < position.offset:
            position = _cut(position)
        data = os.pread(self._file, CHUNK_BYTES, position.offset)
        end = data.rfind(b"\n") + 1
        if end == 0:
            if len(data) < CHUNK_BYTES:
                return None
            counted = not self._in_long_line
            self._in_long_line = True
            return Batch((), _forward(position, len(data)), skipped=int(counted))
        lines = []
        start = 0
        while start < end:
            stop = data.index(b"\n", start)
            if self._in_long_line:
                self._in_long_line = False
            else:
                lines.append(Line(data[start:stop], _forward(position, start)))
            start = stop + 1
        return Batch(tuple(lines), _forward(position, end))

    def trim(self, position: Position) -> Position:
        """Cut the log if it is long and read to its end; return where reading goes on."""
        if (
            self._may_cut
            and position.offset >= TRUNCATE_BYTES
            and os.fstat(self._file).st_size == position.offset
        ):
            os.ftruncate(self._file, 0)
            return _cut(position)
        return position

    def cut_backlog(self, position: Position) -> Batch | None:
        """Cut a log that is too far ahead, unread; None if it is not, or may not be cut."""
        if not self._may_cut or os.fstat(self._file).st_size - position.offset < BACKLOG_BYTES:
            return None
        skipped = 0
        offset = position.offset
        while data := os.pread(self._file, CHUNK_BYTES, offset):
            skipped += data.count(b"\n")
            offset += len(data)
        os.ftruncate(self._file, 0)
        self._in_long_line = False
        return Batch((), _cut(position), skipped)


def _forward(position: Position, size: int) -> Position:
    return msgspec.structs.replace(position, offset=position.offset + size)


def _cut(position: Position) -> Position:
    return msgspec.structs.replace(position, generation=position.generation + 1, offset=0)
