"""Heads that came before, byte for byte but for the request's id.

A router sends the same head for every request of a client, with another
`x-request-id`. What llhttp made of it once holds for the same bytes for ever,
so it is looked up instead of being read again: half of what a small request
costs here besides its sandbox. What differs otherwise is read as always.

Nothing depends on a hit. What is remembered follows from the head's bytes
alone: whether a request is executed here is asked for each. The instance's token
stands among those bytes, and they are compared as bytes are; only what was let in
before is remembered, so who does not have all the rest of it learns nothing.
"""

from typing import Final

import msgspec

from keeper.exchange import Exchange

_ID_NAME: Final = b"x-request-id"
_ID: Final = b"\r\n%b: " % _ID_NAME
_END: Final = b"\r\n\r\n"
"""The end of a head."""
_MOST: Final = 64
_LONGEST: Final = 2048


class _Known(msgspec.Struct, frozen=True):
    """What is known of a head, beside how it begins."""

    id_bytes: int
    """0 if there is no id."""
    id_place: int
    """Of its header among the headers."""
    rest: bytes
    """What follows the id, up to the head's end."""
    size: int
    """Of the whole request."""
    exchange: Exchange
    """What it was read as."""


class Heads:
    """The heads that a child knows. Bounded to `_MOST` of `_LONGEST` bytes."""

    def __init__(self) -> None:
        self._known: dict[bytes, _Known] = {}
        """By what stands before the id, or by all of a head that has none."""

    def find(self, data: bytes) -> Exchange | None:
        """Return the request that `data` is from its first to its last byte, if its head is known.

        The parser must stand between two requests.
        """
        at, has_id = _split(data)
        known = self._known.get(data[:at])
        if known is None or len(data) != known.size:
            return None
        after = at + known.id_bytes
        if not data.startswith(known.rest, after):
            return None
        body = data[after + len(known.rest) :]
        if not has_id:
            return known.exchange.again(None, 0, body)
        request_id = data[at:after]
        # Letters and digits are one value, which no parser could take for more.
        if not request_id.isalnum():
            return None
        return known.exchange.again((_ID_NAME, request_id), known.id_place, body)

    def learn(self, data: bytes, exchange: Exchange) -> None:
        """Remember the head of a request that came in one piece and was read as `exchange`."""
        end = data.find(_END) + len(_END)
        if (
            end > _LONGEST
            or len(data) != end + exchange.length
            or exchange.refused is not None
            or exchange.codings
            or exchange.expects
            or not exchange.keep_alive
        ):
            return
        at, has_id = _split(data[:end])
        after = data.find(b"\r\n", at) if has_id else at
        ids = [i for i, (name, _) in enumerate(exchange.headers) if name == _ID_NAME]
        if len(ids) != has_id or (has_id and exchange.request_id != data[at:after]):
            # Written in another way, or twice: each would be a head of its own.
            return
        if len(self._known) >= _MOST:
            # All at once: what is in use comes back with its next request.
            self._known.clear()
        place = ids[0] if ids else 0
        self._known[data[:at]] = _Known(after - at, place, data[after:end], len(data), exchange)


def _split(data: bytes) -> tuple[int, bool]:
    """Return where what changes begins: the id, or else the body; and whether there is an id."""
    at = data.find(_ID)
    return (at + len(_ID), True) if at >= 0 else (data.find(_END) + len(_END), False)
