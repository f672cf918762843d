"""Where a call's output goes: memory files that stand as the process's stdout and stderr.

Nothing can block on a memory file, and overlapping calls have their own. WASI
is told to inherit descriptors 1 and 2, and a call's files are put there before
each of its slices. wasmtime's other way, opening a file by its path for each
call, took 15 of 36 us, and needed `openat` in a confined process.

The files are not emptied after each call, which would give back a page and
take it again (2 us): a call's output begins where the last one's ended.
"""

import os
from typing import ClassVar, Final, Optional

from keeper import capi

KEPT_BYTES: Final = 64 * 1024
"""How much of earlier output may stay in a file before it is emptied."""
_FIRST_READ: Final = 16 * 1024


def new_file() -> int:
    """Return the descriptor of an empty memory file."""
    return os.memfd_create("output", os.MFD_CLOEXEC)


class Output:
    """One stream of one call after another."""

    __slots__ = ("_begin", "descriptor")

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._begin = 0

    def size(self) -> int:
        """Return how many bytes the call has written."""
        return os.fstat(self.descriptor).st_size - self._begin

    def take(self, limit: int) -> bytes:
        """Return what the call has written, up to one byte more than `limit`."""
        data = os.pread(self.descriptor, _FIRST_READ, self._begin)
        if len(data) == _FIRST_READ:
            data = os.pread(self.descriptor, limit + 1, self._begin)
            self.clear()  # large output must not stay in memory until the next call
        elif data:
            self._begin += len(data)
            if self._begin > KEPT_BYTES - _FIRST_READ:
                self.clear()
        return data

    def clear(self) -> None:
        """Forget everything that was written."""
        os.ftruncate(self.descriptor, 0)
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        self._begin = 0


class Slot:
    """Two streams and scratch memory, used by one call at a time."""

    __slots__ = ("scratch", "stderr", "stdout")

    installed: ClassVar[Optional["Slot"]] = None
    """Whose streams are the process's own now."""

    def __init__(self, stdout: int, stderr: int) -> None:
        """Use what `new_file` returned."""
        self.scratch = capi.Scratch()
        self.stdout = Output(stdout)
        self.stderr = Output(stderr)

    def install(self) -> None:
        """Make the streams the process's stdout and stderr."""
        os.dup2(self.stdout.descriptor, 1)
        os.dup2(self.stderr.descriptor, 2)
        Slot.installed = self

    def close(self) -> None:
        """Close both files."""
        os.close(self.stdout.descriptor)
        os.close(self.stderr.descriptor)
