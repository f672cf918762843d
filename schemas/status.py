"""How far each object is, for people: the last message per object stands."""

from datetime import datetime
from typing import Final, Literal

import msgspec

Phase = Literal["rejected", "waiting", "building", "starting", "active", "failed"]
"""`rejected`: the spec is wrong. `waiting`: it needs an object that is not there yet.
`failed`: the spec is right, but it could not be made to run."""

NO_SPEC: Final = 0
"""In place of a revision: its spec was deleted or lost, and it is in force all the same."""


class Status(msgspec.Struct, frozen=True):
    """The state of one object as its scheduler sees it."""

    kind: str
    namespace: str
    name: str
    phase: Phase
    observed_revision: int
    """The revision (stream sequence of its spec) that this status speaks of, or `NO_SPEC`."""
    active_revision: int | None
    """The revision in force, which may be an older one."""
    message: str
    """One sentence: what is, or what is wrong and what to do."""
    time: datetime
    field: str | None = None
    """Path of the offending field, such as `$.limits.timeout_s`, if one is to blame."""
    correlation: str = ""
