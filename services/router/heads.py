"""Heads that came before, byte for byte.

Most clients of an API, and every instance, send the same head again and again.
What llhttp and the rules of framing made of it once holds for the same bytes
for ever, so it is looked up instead of being read again: that is a third of the
time that a small request takes. What differs is read as always.

Nothing depends on a hit. What is remembered follows from the head's bytes
alone: never a route, an endpoint, or who sent it.
"""

from typing import Final, Generic, Protocol, TypeVar

END: Final = b"\r\n\r\n"
"""The end of a head."""
_MOST: Final = 512
_LONGEST: Final = 2048


class Meaning(Protocol):
    """What a head was read as."""

    raw: bytes
    end: int
    size: int


V = TypeVar("V", bound=Meaning)


class Heads(Generic[V]):
    """What is known of heads. Bounded to `_MOST` of `_LONGEST` bytes."""

    def __init__(self) -> None:
        self.known: dict[bytes, V] = {}

    def learn(self, head: bytes, meaning: V, size: int) -> None:
        """Remember `head`, which ends in `END`; what is old makes room.

        Args:
            head: as it came.
            meaning: what it was read as.
            size: of the whole message.
        """
        if len(head) > _LONGEST:
            return
        meaning.raw, meaning.end, meaning.size = head, len(head), size
        if len(self.known) >= _MOST:
            # All at once: what is in use comes back with its next request.
            self.known.clear()
        self.known[head] = meaning
