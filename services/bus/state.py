"""What a follower knows of a stream, and what each message or snapshot changes in it.

Pure: no clock, no connection. The shell is `services.bus.follow`.

A stream is read as a table: each subject holds its last message, and an empty
message is a deletion (tombstone). Only sequences are kept here; payloads belong
to whoever follows.
"""

from collections.abc import Iterable
from datetime import datetime

import msgspec


class Entry(msgspec.Struct, frozen=True):
    """One message of a stream. `time` is when the server stored it."""

    subject: str
    sequence: int
    payload: bytes
    time: datetime
    headers: dict[str, str] = {}


class Snapshot(msgspec.Struct, frozen=True):
    """All there is, in the order in which it was stored. Always the first update."""

    entries: tuple[Entry, ...]
    deleted: tuple[str, ...] = ()
    """The subjects that say that they were deleted."""


class Put(msgspec.Struct, frozen=True):
    """A subject has a new message."""

    entry: Entry


class Deleted(msgspec.Struct, frozen=True):
    """A subject has nothing any more. `sequence` is the tombstone's, or the last one known."""

    subject: str
    sequence: int


class Replaced(msgspec.Struct, frozen=True):
    """The stream is another one now, such as after the loss of the server's data directory.

    That is no deletion: keep serving what is served, say so, and have it
    rebuilt by hand. What the new stream holds follows as `Put`.
    """

    stream: str
    created: datetime


Update = Snapshot | Put | Deleted | Replaced


class Held:
    """The sequence of every subject a follower has told of.

    With `tombstones` it tells also of the deletion of what it has never told of.
    """

    def __init__(self, *, tombstones: bool = False) -> None:
        self._tombstones = tombstones
        self.created: datetime | None = None
        """When the stream was made; None until the first complete snapshot."""
        self._live: dict[str, int] = {}
        self._dead: dict[str, int] = {}

    def restart(self, created: datetime, entries: Iterable[Entry] = ()) -> None:
        """Forget all, and start from a complete snapshot or from nothing."""
        self.created = created
        self._live, self._dead = {}, {}
        for entry in entries:
            self.take(entry)

    def take(self, entry: Entry) -> Put | Deleted | None:
        """Return what `entry` changes: None if it is no news, or older than what was told."""
        known = max(self._live.get(entry.subject, 0), self._dead.get(entry.subject, 0))
        if entry.sequence <= known:
            return None
        if entry.payload:
            self._dead.pop(entry.subject, None)
            self._live[entry.subject] = entry.sequence
            return Put(entry)
        self._dead[entry.subject] = entry.sequence
        if self._live.pop(entry.subject, None) is None and not self._tombstones:
            return None
        return Deleted(entry.subject, entry.sequence)

    def missing(self, seen: set[str]) -> list[str]:
        """Return the subjects held live that a complete snapshot of the subjects `seen` lacks.

        Tombstones that are gone from the stream are forgotten: nothing older can
        follow them, and remembering each for ever would be a leak.
        """
        self._dead = {s: sequence for s, sequence in self._dead.items() if s in seen}
        return [subject for subject in self._live if subject not in seen]

    def drop(self, subject: str) -> Deleted | None:
        """Forget a subject of which the stream holds nothing any more."""
        sequence = self._live.pop(subject, None)
        return None if sequence is None else Deleted(subject, sequence)
