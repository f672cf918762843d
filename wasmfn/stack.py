"""The whole platform on one machine, as one supervised tree: what `wasmfn up` runs.

nats-server, router, builder, scheduler and podwatch are the programs that a
cluster runs; local are only the pod runtime, the pod source and the image
builder. This module starts them, keeps them up, and takes them down in the
order in which nothing in flight is cut.
"""

from collections.abc import Callable
from pathlib import Path

import msgspec

from wasmfn.discovery import Platform


class StackOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What to run. Everything has a default."""

    http: str = "127.0.0.1:8080"
    """Where the router answers; port 0 takes a free one."""
    data: Path | None = None
    """The data directory; by default the user's own (`wasmfn.paths.default_data_dir`)."""
    nats: str | None = None
    """URL of a nats-server that runs already. By default the stack runs its own."""
    nats_token_file: Path | None = None
    """The token for `nats`, if it asks for one."""


class StackError(Exception):
    """The platform cannot run here. The message says why and what to do.

    Attributes:
        exit_code: what `wasmfn up` exits with: 3 another `up` or program holds the
            data or port, 4 the data directory cannot be used, 5 a part of the
            platform did not start.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        """Keep the exit code beside the sentence."""
        super().__init__(message)
        self.exit_code = exit_code


def run(
    options: StackOptions,
    on_ready: Callable[[Platform], None],
    on_note: Callable[[str], None] = lambda note: None,
) -> int:
    """Run the platform in the foreground until SIGINT or SIGTERM; return the exit code.

    Args:
        options: what to run.
        on_ready: called once, when a deploy would work.
        on_note: called with one sentence for each thing a person should know,
            such as a service that died and is started again.

    Raises:
        StackError: it could not be started; nothing is left running.
    """
    raise NotImplementedError
