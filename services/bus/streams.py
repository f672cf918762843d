"""Make the streams and buckets of the platform exist, whoever comes first.

Every service calls this at start, so that no order of starting matters. Where
only one service is permitted to make them, the others wait for it. Replicas are
left as found unless an operator says how many there are to be.
"""

import asyncio
import logging
from collections.abc import Iterable
from typing import Final

import msgspec
import nats.errors
from nats.js import api
from nats.js.client import JetStreamContext
from nats.js.errors import APIError, NotFoundError

from schemas.builds import MODULES_BUCKET, UPLOADS_BUCKET
from schemas.specs import MIB
from schemas.streams import DAY_S, STREAMS, Stream
from services.bus.applications import STREAM_AGE_S, STREAM_BYTES, Applications
from services.bus.connection import Bus, BusSettings
from services.bus.errors import BusRefused, StreamConflict

log = logging.getLogger(__name__)

_NO_ROOM: Final = (10023, 10028, 10047, 10022)
"""Server error codes: not enough memory, storage or account limit for a stream."""


class Bucket(msgspec.Struct, frozen=True):
    """An object store bucket. `max_age_s` 0 keeps objects for ever."""

    name: str
    max_bytes: int
    max_age_s: float = 0.0
    writer: str = "anyone"
    readers: tuple[str, ...] = ()


BUCKETS: Final = (
    # What a client uploaded is needed until it is built.
    Bucket(UPLOADS_BUCKET, 1024 * MIB, DAY_S, writer="anyone", readers=("builder",)),
    Bucket(MODULES_BUCKET, 4096 * MIB, writer="builder", readers=("scheduler", "people")),
)

_AWAIT_S: Final = 1.0


async def provide(bus: Bus, settings: BusSettings, names: Iterable[str]) -> None:
    """Make every stream and bucket; or, if the settings say so, wait until `names` are there.

    `names` are those of JetStream streams; a bucket `b` is the stream `OBJ_b`.

    Raises:
        StreamConflict, BusRefused: as `ensure_streams`.
    """
    if settings.nats_streams == "make":
        await ensure_streams(bus.js, replicas=settings.nats_replicas)
        await ensure_buckets(bus.js, replicas=settings.nats_replicas)
        return
    for name in names:
        said = False
        while not await _exists(bus, name):
            if not said:
                log.info("waiting until the stream is made", extra={"stream": name})
                said = True
            await asyncio.sleep(_AWAIT_S)


async def _exists(bus: Bus, name: str) -> bool:
    await bus.wait_connected()
    try:
        async with bus.bounded(_AWAIT_S):
            await bus.js.stream_info(name)
    except NotFoundError:
        return False
    except (nats.errors.Error, APIError, TimeoutError) as error:
        log.debug("the stream %s does not show yet: %s", name, error)
        return False
    return True


async def ensure_streams(
    js: JetStreamContext, streams: Iterable[Stream] = STREAMS, *, replicas: int = 0
) -> None:
    """Create what is missing and bring the rest up to date. Harmless to repeat.

    Each is kept on `replicas` servers; 0 leaves that as found, and 1 for a new one.

    Raises:
        StreamConflict: an existing stream cannot be changed into ours.
        BusRefused: the server has no room for it.
    """
    for stream in streams:
        await _ensure(js, _stream_config(stream).evolve(num_replicas=replicas or None))


async def ensure_buckets(
    js: JetStreamContext, buckets: Iterable[Bucket] = BUCKETS, *, replicas: int = 0
) -> None:
    """Do for object store buckets what `ensure_streams` does for streams."""
    for bucket in buckets:
        await _ensure(js, _bucket_config(bucket).evolve(num_replicas=replicas or None))


async def ensure_applications(
    js: JetStreamContext, applications: Applications, *, replicas: int = 0
) -> None:
    """Do for the streams of applications what `ensure_streams` does for ours.

    They keep a week, at most 256 MiB, and drop their oldest: what is in them is not ours to refuse.
    """
    for name, subjects in applications.streams.items():
        wanted = api.StreamConfig(
            name=name,
            subjects=list(subjects),
            max_bytes=STREAM_BYTES,
            max_age=STREAM_AGE_S,
            discard=api.DiscardPolicy.OLD,
            storage=api.StorageType.FILE,
        )
        await _ensure(js, wanted.evolve(num_replicas=replicas or None))


async def _ensure(js: JetStreamContext, wanted: api.StreamConfig) -> None:
    name = str(wanted.name)
    ours = {key: value for key, value in vars(wanted).items() if value is not None}
    try:
        try:
            found = (await js.stream_info(name)).config
        except NotFoundError:
            await js.add_stream(wanted)
            return
        if any(getattr(found, key) != value for key, value in ours.items()):
            await js.update_stream(found.evolve(**ours))
    except APIError as error:
        reason = error.description or str(error)
        if error.err_code in _NO_ROOM:
            room = f"room for the stream {name} ({(wanted.max_bytes or 0) // MIB} MiB)"
            raise BusRefused(room, f"{reason}; give its data directory more space") from error
        raise StreamConflict(name, reason) from error


def _stream_config(stream: Stream) -> api.StreamConfig:
    return api.StreamConfig(
        name=stream.name,
        subjects=list(stream.subjects),
        description=stream.description,
        max_msgs_per_subject=stream.max_msgs_per_subject,
        max_bytes=stream.max_bytes,
        max_age=stream.max_age_s,
        discard=api.DiscardPolicy(stream.discard),
        retention=api.RetentionPolicy(stream.retention),
        discard_new_per_subject=stream.discard_new_per_subject,
        duplicate_window=stream.duplicate_window_s,
        storage=api.StorageType.FILE,
        # A tombstone replaces every older revision of its subject, then expires.
        allow_rollup_hdrs=True,
        allow_msg_ttl=stream.allow_msg_ttl,
        allow_direct=True,
    )


def _bucket_config(bucket: Bucket) -> api.StreamConfig:
    """Return what `create_object_store` would make, as a stream that can be compared.

    Names and headers are those of NATS ADR-20, so any object store client works.
    """
    return api.StreamConfig(
        name=f"OBJ_{bucket.name}",
        subjects=[f"$O.{bucket.name}.C.>", f"$O.{bucket.name}.M.>"],
        max_bytes=bucket.max_bytes,
        max_age=bucket.max_age_s,
        discard=api.DiscardPolicy.NEW,
        storage=api.StorageType.FILE,
        allow_rollup_hdrs=True,
        allow_direct=True,
    )
