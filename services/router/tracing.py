"""The ids that tie an answer to its request: `x-request-id` and W3C Trace Context.

The request id is also the correlation id of whatever the request sets off (a
demand, a cold start, events), so one word finds all of it.
"""

import re
from collections.abc import Iterable
from random import getrandbits
from typing import Final

import msgspec

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:~-]{0,127}\Z")
_TRACEPARENT: Final = re.compile(rb"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}\Z")
_REQUEST_NAME: Final = b"x-request-id: "
_PARENT_NAME: Final = b"traceparent: "
_HEX_ID: Final = re.compile(r"[0-9a-f]{32}\Z")


class Trace(msgspec.Struct, frozen=True, gc=False):
    """A request's ids, as the header lines that they are needed as for every request."""

    request_line: bytes
    parent_line: bytes

    @property
    def request_id(self) -> str:
        """The value of `x-request-id`."""
        return self.request_line[len(_REQUEST_NAME) : -2].decode("ascii")

    @property
    def traceparent(self) -> str:
        """The value of `traceparent`."""
        return self.parent_line[len(_PARENT_NAME) : -2].decode("ascii")


def read_trace(headers: Iterable[tuple[bytes, bytes]]) -> Trace:
    """Take over the client's ids if they are well-formed, else make new ones."""
    request_id = ""
    traceparent = ""
    for name, value in headers:
        if name == b"x-request-id" and not request_id and _REQUEST_ID.match(value):
            request_id = value.decode("ascii")
        elif name == b"traceparent" and not traceparent:
            found = _TRACEPARENT.match(value)
            # All zeros are invalid ids (W3C Trace Context, section 3.2.2).
            if found is not None and int(found[1], 16) and int(found[2], 16):
                traceparent = value.decode("ascii")
    if not request_id and not traceparent:
        return fresh_trace()
    if not request_id:
        request_id = traceparent[3:35]
    if not traceparent:
        fresh = fresh_trace()
        if _HEX_ID.match(request_id) and int(request_id, 16):
            traceparent = f"00-{request_id}-{fresh.request_id[:16]}-00"
        else:
            traceparent = fresh.traceparent
    return Trace(
        b"%b%b\r\n" % (_REQUEST_NAME, request_id.encode("ascii")),
        b"%b%b\r\n" % (_PARENT_NAME, traceparent.encode("ascii")),
    )


def fresh_trace() -> Trace:
    """Return the ids of a request that brings none."""
    # Ids are no secrets. One draw of the generator is a fifth of two calls of the system.
    digits = getrandbits(192).to_bytes(24, "big").hex().encode("ascii")
    trace_id = digits[:32]
    return Trace(
        b"x-request-id: %b\r\n" % trace_id,
        b"traceparent: 00-%b-%b-00\r\n" % (trace_id, digits[32:]),
    )
