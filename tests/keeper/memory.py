"""Looks into the memory of a process."""

import contextlib


def in_memory(pid: int, needle: bytes) -> bool:
    """Return whether `needle` is anywhere in what the process has written."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:  # noqa: PTH123 -- not files
        for line in maps:
            span, rights = line.split()[:2]
            start, end = (int(x, 16) for x in span.split("-"))
            if rights.startswith("rw") and end - start < 1 << 28:
                with contextlib.suppress(OSError):
                    memory.seek(start)
                    if needle in memory.read(end - start):
                        return True
    return False
