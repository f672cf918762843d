"""Which platform and namespace a command speaks to, from its options and the environment."""

import asyncio
import contextlib
import functools
import inspect
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import click
import msgspec

from schemas.names import DEFAULT_NAMESPACE
from wasmfn import paths
from wasmfn.cli.parameters import NAME
from wasmfn.discovery import NoPlatformError, Platform, find_platform
from wasmfn.errors import UnreachableError

if TYPE_CHECKING:
    from wasmfn.client import Client

P = ParamSpec("P")


class Session(msgspec.Struct, frozen=True):
    """What `--nats` and `--namespace` said."""

    nats: str | None
    namespace: str

    def platform(self) -> Platform:
        """Return the platform to talk to.

        Raises:
            UnreachableError: there is none.
        """
        named = self.nats or os.environ.get("WASMFN_NATS", "")
        if named.startswith("kubernetes:"):
            from wasmfn.clusterforward import find_in_cluster  # noqa: PLC0415 - only there

            return find_in_cluster(named)
        try:
            return find_platform(self.nats)
        except NoPlatformError as error:
            raise UnreachableError(str(error)) from error

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator["Client"]:
        """Connect to it."""
        # nats-py is the most of a command's start-up time, and not every command needs it.
        from wasmfn.client import connect  # noqa: PLC0415

        async with connect(self.platform()) as client:
            yield client

    def secrets_dir(self) -> Path:
        """Return the directory of the local platform's secrets, running or not.

        Raises:
            UnreachableError: the platform is not on this machine.
        """
        try:
            data = find_platform(self.nats).data_dir
        except NoPlatformError:
            data = paths.default_data_dir()
        if data is None:
            raise UnreachableError(
                "that platform does not keep its secrets on this machine; in a cluster make a"
                " Kubernetes Secret, as docs/k3s.md shows"
            )
        return paths.Layout(data).secrets


def with_session(
    command: Callable[..., Coroutine[Any, Any, None]] | Callable[..., None],
) -> Callable[..., None]:
    """Give a command, asynchronous or not, a Session first and the options that make it."""

    @functools.wraps(command)
    def run(nats: str | None, namespace: str, **options: Any) -> None:
        result = command(Session(nats, namespace), **options)
        if inspect.iscoroutine(result):
            asyncio.run(result)

    run = click.option(
        "--nats",
        metavar="URL",
        help="NATS of the platform, or `kubernetes:` for that of the cluster (WASMFN_NATS;"
        " by default the one that runs here).",
    )(run)
    return click.option(
        "-n",
        "--namespace",
        type=NAME,
        default=DEFAULT_NAMESPACE,
        envvar="WASMFN_NAMESPACE",
        show_default=True,
        help="Namespace of the objects (WASMFN_NAMESPACE).",
    )(run)
