"""What each user of NATS may do, worked out from the table of streams and channels.

In a cluster every service is a NATS user of its own. `people` are one more, the
command line and whoever publishes specs; and `app` is one for the programs that
functions exchange messages with. What a user may publish and subscribe
follows from who writes and who reads, so it cannot drift from `schemas.streams`.
Answers come to an inbox prefix of the user's own, so that no service reads
another's.

JetStream is spoken to by subjects below `$JS.API`. Reading a stream takes those
that tell about it, make and end a consumer, and acknowledge its flow. Only the
scheduler makes and changes streams; the others wait for them.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from schemas.streams import CHANNELS, STREAMS, Stream
from schemas.subjects import EVENTS, Template
from services.bus.applications import IN_A_CLUSTER, Applications
from services.bus.streams import BUCKETS, Bucket

SERVICES: Final = ("router", "builder", "scheduler", "podwatch")
PEOPLE: Final = "people"
APPLICATION: Final = "app"
USERS: Final = (*SERVICES, PEOPLE, APPLICATION)

STREAM_MAKER: Final = "scheduler"
_CHECKED_BY_PEOPLE: Final = ("PODS", "LEASES")
"""What `wasmfn doctor` and `wasmfn status` read. Not ENDPOINTS, which hold instances' tokens."""
_DELETED_FROM: Final = ("INVOCATIONS", "DEAD")
"""A cancelled invocation and a dead letter go at once, also from a full stream."""
_EACH: Final = "each service its own"
_ANYONE: Final = "anyone"


class Permissions(msgspec.Struct, frozen=True):
    """Subjects that a user may publish and subscribe, sorted."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    answers: bool
    """It may answer a request that reached it, once, wherever the answer is wanted."""


def used_by(user: str) -> tuple[str, ...]:
    """Return the names of the JetStream streams that `user` writes or reads."""
    return tuple(
        [stream.name for stream in STREAMS if _writes(user, stream) or _reads(user, stream)]
        + [f"OBJ_{b.name}" for b in BUCKETS if _writes(user, b) or _reads(user, b)]
    )


def inbox_prefix(user: str) -> str:
    """Return the subject below which `user` takes answers."""
    # The one that NATS clients have by themselves, so that any of them will do.
    return "_INBOX" if user == PEOPLE else f"_INBOX_{user}"


def permissions(user: str, applications: Applications = IN_A_CLUSTER) -> Permissions:
    """Return what `user` may do where `applications` have a part of the bus."""
    theirs = set(applications.subjects)
    if user == APPLICATION:
        # No JetStream but to publish: who makes consumers chooses where they deliver to, and who
        # makes streams what they read.
        inbox = f"{inbox_prefix(user)}.>"
        return Permissions(tuple(sorted(theirs)), tuple(sorted({inbox, *theirs})), answers=True)
    publish = {"$JS.API.STREAM.NAMES", *_about_streams(user), *_in_buckets(user)}
    publish.update(f"$JS.API.STREAM.INFO.{name}" for name in used_by(user))
    subscribe = {f"{inbox_prefix(user)}.>"}
    for channel in CHANNELS:
        if user == channel.writer:
            publish.add(channel.template.wildcard)
        if user in channel.readers:
            subscribe.add(channel.template.wildcard)
    if user == "router":
        # Subscriptions, destinations, and the answers of functions to whoever asked.
        publish |= {*theirs, f"{inbox_prefix(APPLICATION)}.>"}
        subscribe |= theirs
    publish.update(_about_applications(user, applications))
    answers = any(user in channel.readers and channel.reply is not None for channel in CHANNELS)
    return Permissions(tuple(sorted(publish)), tuple(sorted(subscribe)), answers)


def _about_streams(user: str) -> Iterator[str]:
    for stream in STREAMS:
        if _writes(user, stream):
            yield _written(user, stream.template, stream.writer)
            if stream.fenced:
                yield stream.fence
        if _reads(user, stream):
            yield from _reading(stream.name)
            if stream.retention == "workqueue":
                # Its consumers are durable, shared and acknowledge.
                yield f"$JS.API.CONSUMER.LIST.{stream.name}"
                yield f"$JS.ACK.{stream.name}.>"
            if stream.name in _DELETED_FROM and user == stream.writer:
                yield f"$JS.API.STREAM.MSG.DELETE.{stream.name}"
    names = [stream.name for stream in STREAMS] + [f"OBJ_{bucket.name}" for bucket in BUCKETS]
    if user == STREAM_MAKER:
        for verb in ("INFO", "CREATE", "UPDATE"):
            yield from (f"$JS.API.STREAM.{verb}.{name}" for name in names)
    if user == PEOPLE:
        # `wasmfn status` and `wasmfn doctor` look at the whole.
        yield "$JS.API.INFO"
        yield from (f"$JS.API.STREAM.INFO.{name}" for name in names)


def _about_applications(user: str, applications: Applications) -> Iterator[str]:
    for name in applications.streams:
        if user == STREAM_MAKER:
            yield from (f"$JS.API.STREAM.{verb}.{name}" for verb in ("INFO", "CREATE", "UPDATE"))
        if user == "router":
            for verb in ("CREATE", "INFO", "DELETE", "MSG.NEXT"):
                yield f"$JS.API.CONSUMER.{verb}.{name}.>"
            yield f"$JS.ACK.{name}.>"


def _in_buckets(user: str) -> Iterator[str]:
    for bucket in BUCKETS:
        if _writes(user, bucket):
            yield from (f"$O.{bucket.name}.C.>", f"$O.{bucket.name}.M.>")
            # The client removes chunks of an object that it has replaced or could not finish.
            yield f"$JS.API.STREAM.PURGE.OBJ_{bucket.name}"
        if _writes(user, bucket) or _reads(user, bucket):
            yield from _reading(f"OBJ_{bucket.name}")


def _writes(user: str, what: Stream | Bucket) -> bool:
    if what.writer == _EACH:
        return user in SERVICES
    if isinstance(what, Stream) and user in what.producers:
        return True
    return user == (PEOPLE if what.writer == _ANYONE else what.writer)


def _reads(user: str, what: Stream | Bucket) -> bool:
    if isinstance(what, Bucket):
        return user in what.readers
    if user == PEOPLE and (what.writer == _ANYONE or what.name in _CHECKED_BY_PEOPLE):
        return True
    # Who alone writes a table compares what it says with what it should.
    return user in what.readers or user == what.writer


def _written(user: str, template: Template, writer: str) -> str:
    if writer == _EACH:
        assert template is EVENTS  # noqa: S101 - the only one whose subject says who wrote
        return template.filter(service=user)
    return template.wildcard


def _reading(name: str) -> Iterator[str]:
    """Yield what it takes to read the stream `name` and to follow it, and changes nothing in it."""
    for verb in ("STREAM.MSG.GET", "DIRECT.GET", "CONSUMER.CREATE"):
        yield f"$JS.API.{verb}.{name}"
    for verb in ("DIRECT.GET", "CONSUMER.CREATE", "CONSUMER.INFO", "CONSUMER.DELETE",
                 "CONSUMER.MSG.NEXT"):  # fmt: skip
        yield f"$JS.API.{verb}.{name}.>"
    yield f"$JS.FC.{name}.>"
