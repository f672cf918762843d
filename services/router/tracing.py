"""The ids that tie an answer to its request: `x-request-id` and W3C Trace Context.

The request id is also the correlation id of whatever the request sets off (a
demand, a cold start, events), so one word finds all of it. A client's
`traceparent` is passed on. None is made where there is none: it would name a
span that nobody records, as not sampled, and tracers of functions heed that.
"""

import re
from collections.abc import Iterable
from random import getrandbits
from typing import Final

import msgspec

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:~-]{0,127}\Z")
_TRACEPARENT: Final = re.compile(rb"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}\Z")
REQUEST_NAME: Final = b"x-request-id: "
_PARENT_NAME: Final = b"\r\ntraceparent: "
_DIGITS: Final = 32
"""Of a request id."""
_DRAWN: Final = 64
"""Request ids for each draw of the generator: half the price of a draw for each."""


class Trace(msgspec.Struct, frozen=True, gc=False):
    """A request's ids, as they are written for every request."""

    request: bytes
    """The value of `x-request-id`."""
    rest: bytes = b"\r\n"
    """What follows it in a head: the end of its line, and `traceparent`'s if there is one."""

    @property
    def request_id(self) -> str:
        """The value of `x-request-id`."""
        return self.request.decode("ascii")

    @property
    def traceparent(self) -> str:
        """The value of `traceparent`, empty if the client sent none that is valid."""
        return self.rest[len(_PARENT_NAME) : -2].decode("ascii")


def read_trace(headers: Iterable[tuple[bytes, bytes]]) -> Trace:
    """Take over the client's ids if they are well-formed."""
    request = parent = b""
    for name, value in headers:
        if name == b"x-request-id" and not request and _REQUEST_ID.match(value):
            request = value
        elif name == b"traceparent" and not parent:
            found = _TRACEPARENT.match(value)
            # All zeros are invalid ids (W3C Trace Context, section 3.2.2).
            if found is not None and int(found[1], 16) and int(found[2], 16):
                parent = value
    if parent:
        return Trace(request or parent[3:35], b"%b%b\r\n" % (_PARENT_NAME, parent))
    return Trace(request) if request else fresh_trace()


_fresh: Final[list[Trace]] = []


def fresh_trace() -> Trace:
    """Return the ids of a request that brings none."""
    if not _fresh:
        _draw()
    return _fresh.pop()


def _draw() -> None:
    """Make many at once. Ids are no secrets."""
    size = _DRAWN * _DIGITS
    digits = getrandbits(4 * size).to_bytes(size // 2, "big").hex().encode("ascii")
    _fresh.extend([Trace(digits[at : at + _DIGITS]) for at in range(0, size, _DIGITS)])
