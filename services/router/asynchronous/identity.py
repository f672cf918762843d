"""Which invocation a request is: a new one, or one that was accepted before.

An id is the invocation's name on the queue, at its location and among the dead.
With an idempotency key it is made from function and key, so the same key leads
to the same name, whichever router is asked and however often. Without one it is
random. Either way it is what a client must know to read the result.
"""

# ruff: noqa: N818 - the name says what is wrong

import hashlib
import re
from collections.abc import Iterable
from typing import Final

from schemas.invocations import invocation_id
from schemas.names import new_correlation_id

KEY_BYTES: Final = 255
_KEY: Final = re.compile(rb"[\x20-\x7e]{1,%d}\Z" % KEY_BYTES)
_ID: Final = re.compile(r"[0-9a-f]{32}\Z")

CREDENTIALS: Final = frozenset(
    {b"authorization", b"proxy-authorization", b"cookie", b"x-api-key", b"api-key"}
)
"""Headers that are not kept: they are for whoever accepts the request, and outlive it otherwise."""
_MEANT_FOR_US: Final = frozenset({b"prefer", b"idempotency-key"})


class BadKey(ValueError):
    """The idempotency key cannot be one."""


def prefers_async(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether the client prefers not to wait (RFC 7240, section 4.1)."""
    for name, value in headers:
        if name == b"prefer":
            for preference in value.lower().split(b","):
                word = preference.partition(b";")[0].strip()
                if word == b"respond-async":
                    return True
    return False


def idempotency_key(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """Return the request's idempotency key, or None.

    Raises:
        BadKey: there are two, or it is empty, too long or not visible ASCII.
    """
    keys = [value.strip() for name, value in headers if name == b"idempotency-key"]
    if not keys:
        return None
    if len(keys) > 1 or not _KEY.match(keys[0]):
        raise BadKey(f"send one Idempotency-Key of 1 to {KEY_BYTES} visible ASCII characters")
    return keys[0]


def name_of(namespace: str, function: str, kind: str, key: bytes | str | None) -> str:
    """Return the id of an invocation: 32 hexadecimal digits.

    Args:
        namespace: of the function.
        function: its name; the same key for another function is another invocation.
        kind: what sort of key it is, so that a timer's and a client's never meet.
        key: None makes a random id.
    """
    if key is None:
        return new_correlation_id()
    return invocation_id(namespace, function, kind, key)


def is_name(text: str) -> bool:
    """Return whether `text` can be the id of an invocation."""
    return _ID.match(text) is not None


def digest_of(method: str, target: str, body: bytes) -> str:
    """Return what tells two requests apart that carry the same key."""
    return hashlib.sha256(f"{method} {target}\0".encode() + body).hexdigest()


def kept(headers: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[str, str], ...]:
    """Return the headers that are stored with the request."""
    return tuple(
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in headers
        if name not in CREDENTIALS and name not in _MEANT_FOR_US
    )
