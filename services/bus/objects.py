"""Read, write, list and remove objects of a bucket: whole and checked, or not at all.

The layout is that of NATS ADR-20, so any object store client can take part.
Writing is nats-py's. Reading is not: its push consumer waits for flow control
(26 MB took 1.9 s, here 0.06 s), waits for ever if a chunk is missing, and takes
as much memory as the object's writer likes.
"""

import asyncio
import base64
import contextlib
import hashlib
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Final

import msgspec
import nats.errors
from nats.js import api
from nats.js import errors as js_errors

from schemas.unreadable import UNREADABLE
from services.bus.connection import Bus
from services.bus.errors import BusError, BusRefused, BusUnavailable
from services.bus.feed import FeedLost, open_feed

DEADLINE_S: Final = 30.0
_FETCH: Final = 64
"""Chunks asked for at a time; 8 MiB at the usual chunk size."""
_FETCH_S: Final = 5.0
_NO_MESSAGE: Final = 10037
"""Server error code; 10059 would be a missing stream."""
_FULL: Final = 10077
"""Server error code: maximum bytes exceeded. It comes as a 503, but waiting does not help."""


class ObjectUnusable(BusError):  # noqa: N818 - a state, like its siblings in errors
    """An object is there, but damaged or larger than its reader takes."""

    def __init__(self, bucket: str, name: str, reason: str) -> None:
        self.bucket = bucket
        self.name = name
        super().__init__(f"the object {name} in the bucket {bucket} {reason}")


class Object(msgspec.Struct, frozen=True):
    """What the bucket says of an object, without its content."""

    name: str
    nuid: str = ""
    size: int = 0
    chunks: int = 0
    digest: str = ""
    """`SHA-256=` and the digest in URL-safe base64."""
    deleted: bool = False
    headers: dict[str, str | list[str]] | None = None

    @property
    def sha256(self) -> str:
        """The digest in hexadecimal, or an empty string if it is none."""
        try:
            return base64.urlsafe_b64decode(self.digest.removeprefix("SHA-256=")).hex()
        except ValueError:
            return ""

    def header(self, name: str) -> str:
        """Return the (first) value of a header, or an empty string."""
        value = (self.headers or {}).get(name, "")
        return value if isinstance(value, str) else next(iter(value), "")


async def find(
    bus: Bus, bucket: str, name: str, *, deadline_s: float = DEADLINE_S
) -> Object | None:
    """Return what `bucket` says of the object `name`, or None if it has none.

    Raises:
        BusRefused: not permitted, or there is no such bucket.
        BusUnavailable: no answer by the deadline.
        ObjectUnusable: its description cannot be read.
    """
    async with _asking(bus, f"looking for {name} in {bucket}", deadline_s):
        return await _find(bus, bucket, name)


async def read(
    bus: Bus, bucket: str, name: str, max_bytes: int, *, deadline_s: float = DEADLINE_S
) -> bytes | None:
    """Return the content of the object `name`, or None if there is none.

    Raises:
        ObjectUnusable: it has more than `max_bytes`, or not the content it had when written.
        BusRefused, BusUnavailable: as `find`.
    """
    async with _asking(bus, f"reading {name} of {bucket}", deadline_s):
        found = await _find(bus, bucket, name)
        if found is None:
            return None
        if found.size > max_bytes:
            reason = f"has {found.size} bytes; at most {max_bytes} are taken"
            raise ObjectUnusable(bucket, name, reason)
        content = bytearray()
        async for chunk in _chunks(bus, bucket, found):
            content += chunk
            if len(content) > found.size:
                break
        if len(content) != found.size or hashlib.sha256(content).hexdigest() != found.sha256:
            raise ObjectUnusable(bucket, name, "is damaged; write it again")
        return bytes(content)


async def write(
    bus: Bus,
    bucket: str,
    name: str,
    content: bytes,
    headers: Mapping[str, str] | None = None,
    *,
    deadline_s: float = DEADLINE_S,
) -> None:
    """Store `content` as the object `name`; readers see the old one until it is complete.

    Raises:
        BusRefused: not permitted, no such bucket, or it is full.
        BusUnavailable: no answer by the deadline.
    """
    async with _asking(bus, f"writing {name} to {bucket}", deadline_s):
        store = await bus.js.object_store(bucket)
        await store.put(name, content, api.ObjectMeta(headers=dict(headers or {})))


class Listed(msgspec.Struct, frozen=True):
    """An object of a bucket, and when it was stored."""

    name: str
    stored: datetime


async def list_all(bus: Bus, bucket: str, *, deadline_s: float = DEADLINE_S) -> list[Listed]:
    """Return every object of `bucket`; never only some of them.

    Raises:
        BusRefused, BusUnavailable: as `find`.
    """
    doing = f"listing {bucket}"
    async with _asking(bus, doing, deadline_s):
        try:
            async with open_feed(bus, f"OBJ_{bucket}", [f"$O.{bucket}.M.>"]) as feed:
                entries = [entry async for entry in feed.snapshot()]
        except FeedLost as lost:
            raise BusUnavailable(doing, deadline_s, str(lost)) from lost
    found = []
    for entry in entries:
        with contextlib.suppress(*UNREADABLE):
            told = msgspec.json.decode(entry.payload, type=Object)
            if not told.deleted:
                found.append(Listed(told.name, entry.time))
    return found


async def remove(bus: Bus, bucket: str, name: str, *, deadline_s: float = DEADLINE_S) -> None:
    """Remove the object `name`, if it is there: its description first, then its content.

    Raises:
        BusRefused, BusUnavailable, ObjectUnusable: as `find`.
    """
    async with _asking(bus, f"removing {name} of {bucket}", deadline_s):
        found = await _find(bus, bucket, name)
        if found is None:
            return
        # No marker is left, which would stay for ever: readers ask, they do not follow.
        await bus.js.purge_stream(f"OBJ_{bucket}", subject=_description(bucket, name))
        await bus.js.purge_stream(f"OBJ_{bucket}", subject=f"$O.{bucket}.C.{found.nuid}")


@contextlib.asynccontextmanager
async def _asking(bus: Bus, doing: str, deadline_s: float) -> AsyncIterator[None]:
    """Bound the time of a conversation with NATS, and translate its errors."""
    try:
        async with asyncio.timeout(deadline_s):
            await bus.wait_connected()
            yield
    except (TimeoutError, nats.errors.Error) as error:
        if isinstance(error, js_errors.APIError) and (
            error.err_code == _FULL or not isinstance(error, js_errors.ServiceUnavailableError)
        ):
            raise BusRefused(doing, error.description or str(error)) from error
        reason = str(error).removeprefix("nats: ") or bus.last_error
        raise BusUnavailable(doing, deadline_s, reason) from error


def _description(bucket: str, name: str) -> str:
    """Return the subject of what a bucket says of an object."""
    return f"$O.{bucket}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"


async def _find(bus: Bus, bucket: str, name: str) -> Object | None:
    message = await _last(bus, bucket, _description(bucket, name))
    if message is None:
        return None
    try:
        found = msgspec.json.decode(message, type=Object)
    except UNREADABLE as error:
        raise ObjectUnusable(bucket, name, "has a description that cannot be read") from error
    return None if found.deleted else found


async def _chunks(bus: Bus, bucket: str, found: Object) -> AsyncIterator[bytes]:
    """Yield the chunks of an object in order; fewer if some are missing."""
    subject = f"$O.{bucket}.C.{found.nuid}"
    if found.chunks == 1:
        # Most modules and artifacts: one question instead of a consumer.
        if (only := await _last(bus, bucket, subject)) is not None:
            yield only
        return
    if found.chunks < 1:
        return
    subscription = await bus.js.pull_subscribe(
        subject,
        stream=f"OBJ_{bucket}",
        config=api.ConsumerConfig(
            ack_policy=api.AckPolicy.NONE, mem_storage=True, inactive_threshold=_FETCH_S * 2
        ),
    )
    try:
        left = found.chunks
        while left > 0:
            for message in await subscription.fetch(min(left, _FETCH), timeout=_FETCH_S):
                left -= 1
                yield message.data
    except nats.errors.TimeoutError:
        if not bus.connected:
            raise
        # NATS is there and has no more of them: the length will tell.
    finally:
        with contextlib.suppress(nats.errors.Error):
            await subscription.unsubscribe()


async def _last(bus: Bus, bucket: str, subject: str) -> bytes | None:
    """Return the last message on `subject`, or None if there is none."""
    try:
        # Not a direct get: a replica may not have yet what was just written.
        message = await bus.js.get_last_msg(f"OBJ_{bucket}", subject)
    except js_errors.NotFoundError as error:
        if error.err_code == _NO_MESSAGE:
            return None
        raise
    return message.data or b""
