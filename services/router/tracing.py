"""The ids that tie an answer to its request: `x-request-id` and W3C Trace Context.

The request id is also the correlation id of whatever the request sets off (a
demand, a cold start, events), so one word finds all of it. A client's
`traceparent` is passed on. None is made where there is none: it would name a
span that nobody records, as not sampled, and tracers of functions heed that.
"""

import re
from binascii import hexlify
from collections.abc import Iterable
from random import randbytes
from struct import Struct
from typing import Final

import msgspec

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:~-]{0,127}\Z")
_TRACEPARENT: Final = re.compile(rb"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}\Z")
REQUEST_NAME: Final = b"x-request-id: "
_PARENT_NAME: Final = b"\r\ntraceparent: "
NO_PARENT: Final = b"\r\n"
"""What follows a request id that came without `traceparent`."""
_DRAWN: Final = 64
"""Request ids for each draw of the generator: a quarter of the price of a draw for each."""
_cut: Final = Struct("32s" * _DRAWN).unpack


class Trace(msgspec.Struct, frozen=True, gc=False):
    """A request's ids, as they are written for every request."""

    request: bytes
    """The value of `x-request-id`."""
    rest: bytes = NO_PARENT
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
    return Trace(request or fresh_id())


_fresh: Final[list[bytes]] = []


def fresh_id() -> bytes:
    """Return the id of a request that brings none: 32 digits, no secret."""
    if not _fresh:
        _fresh.extend(_cut(hexlify(randbytes(16 * _DRAWN))))  # noqa: S311 - it is no secret
    return _fresh.pop()
