"""What a scenario may do to a platform: speak HTTP and NATS, use the CLI, and break things."""

import subprocess
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Protocol

from services.bus.connection import Bus
from wasmfn.client import Client

STREAM = "KEPT"
KEPT = "app.kept.>"
"""What the stream of applications keeps."""


class Platform(Protocol):
    """A running platform, local or in a cluster."""

    @property
    def http(self) -> str:
        """Base URL of the router."""

    def reachable(self) -> AbstractContextManager[None]:
        """Put the calling thread, and those it starts, where `http` can be reached from."""

    def nats(self) -> AbstractAsyncContextManager[Client]:
        """Connect to its bus."""

    def insight(self) -> AbstractAsyncContextManager[Client]:
        """Connect with the rights of the scheduler, who reads what users may not: tokens too."""

    def application(self) -> AbstractAsyncContextManager[Bus]:
        """Connect as a program that speaks with functions below `app.`; STREAM holds KEPT."""

    def cli(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run `wasmfn` against it, to its end."""

    def keepers(self) -> list[str]:
        """Return the uids of the keepers that run."""

    def kill(self, uid: str) -> None:
        """Kill a keeper and all that runs in it, at once and without a word."""

    def evict(self, uid: str) -> None:
        """Tell a keeper to end in order, without a word to the scheduler."""

    def restart(self) -> None:
        """Stop the whole platform in order and start it again on the same data."""
