"""Read the lines of a keeper from a log that a container runtime writes and a kubelet rotates.

Each line of such a file is `<time> <stream> <tags> <text>` (Kubernetes' "CRI log
format"). A runtime cuts long lines: all pieces but the last are tagged `P`, the
last is tagged `F`. A file that is full is renamed to `0.log.<time>`, its writer
is told to go on in a new `0.log`, and older ones are compressed: those are past
reading. Nothing is written here, for the files are the kubelet's.
"""

import re
import time
from pathlib import Path
from typing import Final

import msgspec

from services.podwatch.offsets import Position
from services.podwatch.tail import CHUNK_BYTES, Batch, Line, Tail

LINE_BYTES: Final = CHUNK_BYTES - 17 * 1024
"""The longest line that is put together: all but its last piece, of 16 KiB, are in one chunk."""
_SWAP_S: Final = 0.2
"""How long a writer may still write to a file whose successor is there."""
_ROTATED: Final = re.compile(r"\.\d{8}-\d{6}")


class RotatedTail:
    """The files of one container's log, read one after the other. Has the interface of `Tail`."""

    def __init__(self, path: Path, last: Position | None) -> None:
        """Open the file where reading stopped, else the oldest. OSError if there is none."""
        self._path = path
        self.watched = path.parent
        files = self._files()
        read_last = [f for f in files if last is not None and f.stat().st_ino == last.inode]
        self._tail = Tail((read_last or files or [path])[0], may_cut=False)
        self._succeeded_at: float | None = None
        self._dropping = False
        if last is not None and last.inode == self._tail.inode:
            self.begin = last
        else:
            self.begin = Position(self._tail.inode, generation=last.generation + 1 if last else 0)

    def close(self) -> None:
        """Let go of the file."""
        self._tail.close()

    @property
    def waits(self) -> bool:
        """Whether there is another file, to go on with shortly."""
        return self._succeeded_at is not None

    def read(self, position: Position) -> Batch | None:
        """Return the next whole lines, or None at the end."""
        while True:
            if position.inode != self._tail.inode:
                position = self.begin
            if (raw := self._tail.read(position)) is not None:
                batch, self._dropping = whole(raw, position, dropping=self._dropping)
                if batch is not None:
                    return batch
            if not self._go_on(position.generation + 1):
                return None

    def trim(self, position: Position) -> Position:
        """Return where to go on: the kubelet sees to the length."""
        return position

    def cut_backlog(self, position: Position) -> Batch | None:
        """Return None: what is not read in time is rotated away."""
        return None

    def _go_on(self, generation: int) -> bool:
        """Open the next file, if there is one and nobody writes to this one any more."""
        files = self._files()
        inodes = [file.stat().st_ino for file in files]
        # This file itself is missing there once it was compressed; then all others are later.
        later = files[inodes.index(self._tail.inode) + 1 :] if self._tail.inode in inodes else files
        if not later:
            return False
        now = time.monotonic()
        if self._succeeded_at is None:
            self._succeeded_at = now
        if now - self._succeeded_at < _SWAP_S:
            return False
        following = Tail(later[0], may_cut=False)
        self._tail.close()
        self._tail = following
        self._succeeded_at = None
        self._dropping = False
        # The number goes on, for lines of two files may begin at the same place.
        self.begin = Position(following.inode, generation)
        return True

    def _files(self) -> list[Path]:
        """Return the files that can be read, oldest first."""
        begin = len(self._path.name)
        rotated = [
            file
            for file in self._path.parent.glob(f"{self._path.name}.*")
            if _ROTATED.fullmatch(file.name[begin:])
        ]
        return sorted(rotated) + ([self._path] if self._path.exists() else [])


def whole(raw: Batch, begin: Position, *, dropping: bool) -> tuple[Batch | None, bool]:
    """Return the lines whose last piece is there, and whether one too long is being dropped.

    Args:
        raw: lines of the file, of which the first is at `begin`.
        begin: where to read again if there is nothing to return yet.
        dropping: the first pieces belong to a line that was too long.
    """
    lines: list[Line] = []
    pieces: list[bytes] = []
    start = begin
    for line in raw.lines:
        if not pieces:
            start = line.at
        text, ends = _piece(line.raw)
        if not dropping:
            pieces.append(text)
        if ends:
            if not dropping:
                lines.append(Line(b"".join(pieces), start))
            pieces = []
            dropping = False
    if not pieces:
        return msgspec.structs.replace(raw, lines=tuple(lines)), dropping
    if raw.then.offset - start.offset > LINE_BYTES:
        return Batch(tuple(lines), raw.then, raw.skipped + 1), True
    if start == begin:
        return None, dropping
    return Batch(tuple(lines), start, raw.skipped), dropping


def _piece(raw: bytes) -> tuple[bytes, bool]:
    """Return the text of a line of the file, and whether it ends the line it is a piece of."""
    parts = raw.split(b" ", 3)
    if len(parts) != 4:
        return raw, True
    return parts[3], parts[2].partition(b":")[0] != b"P"
