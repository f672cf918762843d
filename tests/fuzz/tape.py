"""A fuzzer's bytes, read as choices and text.

Choices are taken from the end, text is what is left in front. So a kept input
is readable, and a fuzzer that changes the text leaves the choices alone.
Whatever the bytes, there is a choice: when none are left, all are the first.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

T = TypeVar("T")


class Tape:
    """The bytes of one execution."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def number(self, below: int) -> int:
        """Return a number from 0."""
        size = 1 if below <= 256 else 2
        taken, self._data = self._data[-size:], self._data[:-size]
        return int.from_bytes(taken, "big") % below

    def flag(self) -> bool:
        """Return yes or no."""
        return self.number(2) == 1

    def pick(self, options: Sequence[T]) -> T:
        """Return one of `options`."""
        return options[self.number(len(options))]

    def pieces(self) -> list[bytes]:
        """Return the text, cut at up to 15 places."""
        cuts = sorted(self.number(65536) for _ in range(self.number(16)))
        text = self.text()
        places = [0, *(cut % (len(text) + 1) for cut in cuts), len(text)]
        places.sort()
        pieces = [text[a:b] for a, b in pairwise(places)]
        return [piece for piece in pieces if piece]

    def text(self) -> bytes:
        """Return all that is left."""
        text, self._data = self._data, b""
        return text


def tape(text: bytes, *choices: int) -> bytes:
    """Return the bytes that read as `text` and as these choices, all of them below 256."""
    return text + bytes(reversed(choices))


def headers_of(text: bytes) -> list[tuple[bytes, bytes]]:
    """Return the headers that llhttp could have read from lines of `text`."""
    found = []
    for line in text.split(b"\n"):
        name, colon, value = line.partition(b":")
        name = bytes(c for c in name.lower() if c in _TOKEN)
        value = bytes(c for c in value if c >= 0x20 or c == 0x09).replace(b"\x7f", b"")
        if colon and name:
            found.append((name, value.strip(b" \t")))
    return found


_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
