"""Where podwatch learns which pods there are: the seam between one machine and a cluster.

A source tells of pods as plain data and knows nothing of NATS or of readiness.
It begins with a complete snapshot and gives another whenever it may have missed
something, so a change is only ever a hint that saves waiting for the next one.
"""

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Literal, Protocol

import msgspec

LogFormat = Literal["lines", "cri"]
"""`lines`: the keeper's lines and nothing else. `cri`: as a container runtime writes them, in
a file that a kubelet rotates."""


class PodSeen(msgspec.Struct, frozen=True):
    """A pod of the platform that exists on this node."""

    uid: str
    name: str
    labels: dict[str, str]
    ip: str
    """Empty as long as it has none."""
    port: int
    """Where it is probed: the control port of its keeper, or where its function answers."""
    started_at: datetime | None
    log: str = ""
    """Path of the keeper's log, if there is one to follow."""
    log_format: LogFormat = "lines"


class PodGone(msgspec.Struct, frozen=True):
    """A pod does not run any more, and why, in words."""

    uid: str
    reason: str


class Snapshot(msgspec.Struct, frozen=True):
    """Every pod that runs on this node. What is not in it is gone."""

    pods: tuple[PodSeen, ...]


Sighting = Snapshot | PodSeen | PodGone


class PodSource(Protocol):
    """Tells of the platform's pods on one node."""

    def follow(self) -> AsyncGenerator[Sighting, None]:
        """Yield a Snapshot, then what changes; again a Snapshot after anything was missed.

        Runs until it is closed. Trouble with where it looks is its own to get
        over: it tries again with back-off, and tells nothing in the meantime.
        """
        ...
