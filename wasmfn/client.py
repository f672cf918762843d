"""The Python client: publish specs, see what became of them, read events and logs.

The bus is the API, and this is one client of it: everything here is a publish
or a read of a stream that any NATS client could do. The command line uses
nothing else.

    from wasmfn.client import Key, connect

    async with connect() as platform:
        module = await platform.put_module(Path("sort.wasm").read_bytes(), "sort.wasm")
        key = Key("function", "default", "sort")
        revision = await platform.publish(key, FunctionSpec(module=module))
        await platform.wait_active({key: revision}, timeout_s=10)
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec

from schemas import subjects
from schemas.builds import MAX_MODULE_MIB, MODULES_BUCKET, UPLOADS_BUCKET
from schemas.events import Event, LogLine
from schemas.names import sha256_hex
from schemas.specs import KINDS, MIB, AnySpec, Module
from schemas.status import Status
from schemas.streams import EVENTS, LOGS, SPECS, STATUS
from services.bus import connection, objects
from services.bus.errors import Conflict
from services.bus.feed import FeedLost, open_feed
from services.bus.publish import TOMBSTONE_S, publish, tombstone
from services.bus.state import Entry
from wasmfn import access, rollout
from wasmfn.discovery import Platform
from wasmfn.errors import (
    ConflictError,
    MissingError,
    RejectedError,
)
from wasmfn.history import read_log
from wasmfn.objects import Key, Object, functions_using, joined, verb_of

__all__ = ["Client", "Key", "Object", "connect"]

CONNECT_S: Final = 3.0
_BUCKETS: Final = (UPLOADS_BUCKET, MODULES_BUCKET)
"""Where a module's bytes may be: the builder keeps those that it built."""
_MAX_MODULE_BYTES: Final = 512 * MIB


@contextlib.asynccontextmanager
async def connect(
    platform: Platform | None = None, *, wait_s: float = CONNECT_S
) -> AsyncIterator["Client"]:
    """Connect to a platform, by default to the one that `find_platform` finds.

    Args:
        platform: where it is.
        wait_s: how long its NATS may take to answer.

    Raises:
        UnreachableError: none was found, it does not answer, or it does not let us in.
    """
    async with access.open_bus(platform, wait_s) as bus:
        yield Client(bus)


class Client:
    """A connection to a platform. Made by `connect`.

    Every method may raise UnreachableError when NATS does not answer.
    """

    def __init__(self, bus: connection.Bus) -> None:
        """Use `bus`; whoever made it closes it."""
        self.bus = bus

    async def put_module(self, data: bytes, file_name: str) -> Module:
        """Store a module's bytes, unless they are there already, and return how a spec names it.

        Raises:
            RejectedError: it is larger than any builder takes, or the store takes no more.
        """
        if len(data) > MAX_MODULE_MIB * MIB:
            # What nobody can build would keep others from uploading for a day.
            raise RejectedError(
                f"{file_name} has {len(data) / MIB:.1f} MiB; at most {MAX_MODULE_MIB} MiB are taken"
            )
        digest = sha256_hex(data)
        with access.translated():
            for bucket in _BUCKETS:
                stored = await objects.find(self.bus, bucket, digest)
                if stored is not None and stored.size == len(data):
                    break
            else:
                await objects.write(self.bus, UPLOADS_BUCKET, digest, data)
        return Module(sha256=digest, file_name=file_name)

    async def get_module(self, sha256: str) -> bytes:
        """Return the bytes of a module that was uploaded or built.

        Raises:
            MissingError: it is not stored: an upload that was never built is kept for a day.
        """
        with access.translated():
            for bucket in _BUCKETS:
                data = await objects.read(self.bus, bucket, sha256, _MAX_MODULE_BYTES)
                if data is not None:
                    return data
        raise MissingError(
            f"the module {sha256[:12]} is not in the store; take it from where it was made"
        )

    async def publish(self, key: Key, spec: AnySpec, *, expected: int | None = None) -> int:
        """Publish a spec and return its revision, once it is stored.

        Args:
            key: the object; its kind must be that of the spec.
            spec: what is wanted.
            expected: publish only if the last revision is this one; 0 means that there is none.

        Raises:
            ConflictError: `expected` does not hold.
            RejectedError: NATS does not take it.
        """
        payload = msgspec.json.encode(spec)
        with access.translated():
            return await publish(self.bus, _spec_subject(key), payload, expected=expected)

    async def delete(self, key: Key, *, expected: int | None = None) -> int:
        """Delete an object, all its revisions with it, and return the deletion's revision.

        Raises:
            MissingError: there is no such object.
            ConflictError: it is an environment that functions use, or `expected` does not hold.
        """
        found = await self.get(key)
        if expected is None:
            expected = found.revision if found.published else 0
        if key.kind == "environment":
            users = functions_using(key, await self.objects("function", key.namespace))
            if users:
                names = ", ".join(user.name for user in users)
                raise ConflictError(
                    f"{key} is used by {names}; delete or change "
                    f"{'that function' if len(users) == 1 else 'those functions'} first"
                )
        with access.translated():
            return await tombstone(
                self.bus,
                _spec_subject(key),
                expected=expected,
                # A leader that comes later sees no spec either way, which alone ends nothing.
                keep_s=TOMBSTONE_S if found.published else None,
            )

    async def withdraw(self, revisions: Mapping[Key, int]) -> None:
        """Delete objects that were just published, unless somebody published them again.

        So a new object that the platform refuses leaves nothing behind but its events.
        """
        with access.translated():
            for key, revision in revisions.items():
                with contextlib.suppress(Conflict):
                    await tombstone(self.bus, _spec_subject(key), expected=revision)

    async def get(self, key: Key) -> Object:
        """Return one object with its status, be its spec published or only in force yet.

        Raises:
            MissingError: there is no such object.
        """
        found = await self.find(key, unpublished=True)
        if found is None:
            raise MissingError(
                f"there is no {key}; `wasmfn {verb_of(key.kind)} list -n {key.namespace}` shows"
                " what is there"
            )
        return found

    async def find(self, key: Key, *, unpublished: bool = False) -> Object | None:
        """Return one object with its status, or None if there is none.

        With `unpublished` also one in force whose spec was deleted, or lost with NATS's data.
        """
        found = await self._objects(key.kind, key.namespace, key.name)
        return found[0] if found and (found[0].published or unpublished) else None

    async def objects(self, kind: str | None = None, namespace: str | None = None) -> list[Object]:
        """Return the objects of a kind and a namespace, or of all, sorted by kind and name.

        Those in force without a spec are among them.
        """
        return await self._objects(kind, namespace, None)

    async def wait(
        self,
        revisions: Mapping[Key, int],
        timeout_s: float,
        on_status: Callable[[Status], None] = lambda status: None,
        *,
        or_waiting: bool = False,
    ) -> dict[Key, Status]:
        """Wait until each revision, or a later one, is active, rejected or failed.

        Args:
            revisions: what `publish` returned, by object.
            timeout_s: for all of them together.
            on_status: called with each status on the way, in the order they come.
            or_waiting: be content with one that waits for an object that is not there yet.

        Raises:
            DeadlineError: some are on their way yet.
        """
        return await rollout.follow(
            self.bus, revisions, timeout_s, on_status, or_waiting=or_waiting
        )

    async def wait_active(
        self,
        revisions: Mapping[Key, int],
        timeout_s: float,
        on_status: Callable[[Status], None] = lambda status: None,
        *,
        or_waiting: bool = False,
    ) -> dict[Key, Status]:
        """Do what `wait` does, and raise RejectedError if one was rejected or failed."""
        statuses = await self.wait(revisions, timeout_s, on_status, or_waiting=or_waiting)
        rollout.must_be_active(statuses)
        return statuses

    async def events(
        self, since: datetime | None = None, *, follow: bool = False
    ) -> AsyncGenerator[Event, None]:
        """Yield the events since `since` (by default: now), and with `follow` all that come."""
        entries = read_log(
            self.bus, EVENTS.name, [EVENTS.template.wildcard], since or _now(), follow=follow
        )
        with access.translated():
            async with contextlib.aclosing(entries):
                async for entry in entries:
                    with contextlib.suppress(msgspec.DecodeError):
                        yield msgspec.json.decode(entry.payload, type=Event)

    async def logs(
        self, namespace: str, function: str, since: datetime | None = None, *, follow: bool = False
    ) -> AsyncGenerator[LogLine, None]:
        """Yield what a function wrote to its log, as `events` does."""
        subject = subjects.LOGS.subject(namespace=namespace, function=function)
        entries = read_log(self.bus, LOGS.name, [subject], since or _now(), follow=follow)
        with access.translated():
            async with contextlib.aclosing(entries):
                async for entry in entries:
                    with contextlib.suppress(msgspec.DecodeError):
                        yield msgspec.json.decode(entry.payload, type=LogLine)

    async def _objects(
        self, kind: str | None, namespace: str | None, name: str | None
    ) -> list[Object]:
        given = {"kind": kind, "namespace": namespace, "name": name}
        tokens = {token: text for token, text in given.items() if text is not None}
        with access.translated():
            specs, statuses = await asyncio.gather(
                self._snapshot(SPECS.name, subjects.SPECS.filter(**tokens)),
                self._snapshot(STATUS.name, subjects.STATUS.filter(**tokens)),
            )
        return joined(specs, statuses)

    async def _snapshot(self, stream: str, subject: str) -> list[Entry]:
        """Return the last message of each subject, without the deleted ones."""
        while True:
            try:
                async with open_feed(self.bus, stream, [subject]) as feed:
                    return [entry async for entry in feed.snapshot() if entry.payload]
            except FeedLost:
                async with asyncio.timeout(CONNECT_S):
                    await self.bus.wait_connected()


def _tokens(key: Key) -> dict[str, str]:
    return {"kind": key.kind, "namespace": key.namespace, "name": key.name}


def _spec_subject(key: Key) -> str:
    if key.kind not in KINDS:
        raise ValueError(f"there is no kind {key.kind!r}; the kinds are {', '.join(KINDS)}")
    return subjects.SPECS.subject(**_tokens(key))


def _now() -> datetime:
    return datetime.now(UTC)
