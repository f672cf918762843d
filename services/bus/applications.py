"""What of the bus belongs to applications: subjects, and streams that keep what is published there.

Subscriptions and destinations of functions speak on subjects of a user's own.
In a cluster the routers' NATS user is permitted a few of them and no others:
those that the operator gave to applications when the platform was installed.
The same list decides which specs are accepted, so that none is in force whose
subject NATS would then deny.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from schemas.names import END, Subject
from schemas.specs import MIB, check_subject
from schemas.streams import DAY_S, STREAMS

StreamName = Annotated[str, Meta(pattern=r"^[-A-Za-z0-9_]+" + END, max_length=255)]
Streams = Mapping[StreamName, tuple[Subject, ...]]

STREAM_BYTES: Final = 256 * MIB
STREAM_AGE_S: Final = 7 * DAY_S
_NOT_THEIRS: Final = ("OBJ_", "KV_")


class Applications(msgspec.Struct, frozen=True):
    """The subjects of applications, and which of them a stream keeps, by its name.

    No subjects at all: every subject that `check_subject` lets a user have, as on
    one machine, where whoever reaches the bus may do everything.
    """

    subjects: tuple[Subject, ...] = ()
    streams: dict[StreamName, tuple[Subject, ...]] = {}

    def __post_init__(self) -> None:
        """Refuse what is the platform's, and streams of what is not the applications'."""
        for subject in self.subjects:
            check_subject(subject, wildcards=True)
        for name, kept in self.streams.items():
            if name in {stream.name for stream in STREAMS} or name.startswith(_NOT_THEIRS):
                raise ValueError(f"the stream {name} is the platform's; take another name")
            for subject in kept:
                check_subject(subject, wildcards=True)
                if self.subjects and not is_covered(subject, self.subjects):
                    raise ValueError(
                        f"the stream {name} is to keep {subject!r}, which is outside of the"
                        f" applications' subjects {', '.join(self.subjects)}"
                    )

    @property
    def restricted(self) -> bool:
        """Whether there are subjects that applications may not have."""
        return bool(self.subjects)


IN_A_CLUSTER: Final = Applications(("app.>",))
"""What a cluster gives to applications unless its operator says otherwise."""


def is_covered(subject: str, by: Iterable[str]) -> bool:
    """Return whether one of the patterns `by` takes in all that `subject` stands for."""
    return any(_covers(pattern.split("."), subject.split(".")) for pattern in by)


def _covers(pattern: list[str], words: list[str]) -> bool:
    for place, wanted in enumerate(pattern):
        if wanted == ">":
            return len(words) > place
        if place >= len(words):
            return False
        if words[place] != wanted and (wanted != "*" or words[place] == ">"):
            return False
    return len(words) == len(pattern)
