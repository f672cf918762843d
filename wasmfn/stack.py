"""The whole platform on one machine: what `wasmfn up` runs.

nats-server, router, builder, scheduler and podwatch are the programs that a
cluster runs; local are only the pod runtime, the pod source and the image
builder. This module prepares the ground for them: the data directory is this
process's alone, nothing of an earlier run is left, keys are made and addresses
free. Whatever can be wrong is said here, in a sentence, before anything starts.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from services.scheduler.pods.processes import stop_all
from wasmfn import natsserver, orphans, paths
from wasmfn.discovery import Platform
from wasmfn.keys import ensure_keys
from wasmfn.paths import Layout
from wasmfn.programs import NATS, Place
from wasmfn.supervision import FailedError
from wasmfn.tree import Tree

REFUSED: Final = 3
BAD_DATA: Final = 4
FAILED: Final = 5
INTERRUPTED: Final = 130

_ORPHANS_S: Final = 3.0
_BACKLOG: Final = 2048
"""Clients that can wait for a router that is being started again."""


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
        exit_code: what `wasmfn up` exits with: 3 the data or an address is held by
            another program or cannot be used, 4 the data directory cannot be used, 5 a part of the
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
    """Run the platform in the foreground until it is told to stop; return the exit code.

    SIGINT, SIGTERM and the end of its terminal tell it to. A second signal ends
    it at once, with 130. To be called in the main thread.

    Args:
        options: what to run.
        on_ready: called once, when a deploy would work.
        on_note: called with one sentence for each thing a person should know,
            such as a service that died and is started again.

    Raises:
        StackError: it could not be started; nothing is left running.
    """
    layout = Layout((options.data or paths.default_data_dir()).absolute())
    with contextlib.ExitStack() as held:
        try:
            layout.create()
            held.enter_context(_hold(layout))
            _clean(layout, on_note)
            ensure_keys(layout)
            listener = held.enter_context(_listen(options.http))
            place = _place(options, layout, listener)
        except OSError as error:
            raise _unusable(layout, error) from error
        return asyncio.run(_run(place, listener, on_ready, on_note))


@contextlib.contextmanager
def _hold(layout: Layout) -> Iterator[None]:
    """Hold the data directory for this process alone."""
    with layout.lock.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise StackError(
                f"a platform runs on {layout.data} already (pid {lock.read().strip() or '?'});"
                " stop it, or name another directory with --data",
                REFUSED,
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def _clean(layout: Layout, on_note: Callable[[str], None]) -> None:
    """End what an `up` that was killed has left running."""
    layout.platform.unlink(missing_ok=True)
    left = orphans.end_orphans(layout.processes, _ORPHANS_S, last=NATS)
    keepers = stop_all(layout.pods, _ORPHANS_S)
    if left or keepers:
        what = [*left, *([f"{keepers} keepers"] if keepers else [])]
        on_note(f"ended what an earlier `wasmfn up` had left running: {', '.join(what)}")


def _place(options: StackOptions, layout: Layout, listener: socket.socket) -> Place:
    """Return where this platform is: settle every address before anything starts."""
    nats_url, nats_health = options.nats or "", ""
    nats_server: Path | None = None
    if options.nats and "@" in options.nats:
        raise StackError(
            "a NATS address with a password or token in it can be read by everybody;"
            " give the token as a file, with --nats-token-file",
            REFUSED,
        )
    if options.nats is None:
        try:
            nats_server = natsserver.executable()
        except natsserver.NoServerError as error:
            raise StackError(str(error), FAILED) from error
        port = natsserver.choose_port(layout)
        nats_health = natsserver.configure(layout, port)
        nats_url = f"nats://{natsserver.HOST}:{port}"
    return Place(
        layout=layout,
        http=_address(listener),
        http_fd=listener.fileno(),
        nats_url=nats_url,
        nats_server=nats_server,
        nats_health=nats_health,
        token_file=options.nats_token_file if options.nats else layout.token,
    )


def _listen(address: str) -> socket.socket:
    """Return a listener at `address`.

    Raises:
        StackError: there can be none.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host and port.isdecimal():
        raise StackError(
            f"{address} names no host to serve at; write 127.0.0.1:{port} for this machine alone,"
            f" or 0.0.0.0:{port} for everyone who can reach it",
            REFUSED,
        )
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, int(port)), family=family, backlog=_BACKLOG)
    except (ValueError, OverflowError):
        raise StackError(f"{address} is no HOST:PORT to serve at", REFUSED) from None
    except OSError as error:
        reason = (
            "another program uses it"
            if error.errno == errno.EADDRINUSE
            else error.strerror or str(error)
        )
        raise StackError(
            f"cannot serve at http://{address}: {reason}; name another address with --http", REFUSED
        ) from error


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _unusable(layout: Layout, error: OSError) -> StackError:
    reason = (
        "the disk is full; make room on it"
        if error.errno == errno.ENOSPC
        else f"{error.strerror or error}"
    )
    where = f" ({error.filename})" if error.filename else ""
    return StackError(f"cannot use the data directory {layout.data}: {reason}{where}", BAD_DATA)


async def _run(
    place: Place,
    listener: socket.socket,
    on_ready: Callable[[Platform], None],
    on_note: Callable[[str], None],
) -> int:
    stop, hurry = asyncio.Event(), asyncio.Event()

    def told() -> None:
        (hurry if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Under nohup a hangup is ignored, and stays so.
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, told)
    tree = Tree(place, listener, on_note)
    running = asyncio.create_task(tree.run(stop, on_ready))
    hurried = asyncio.create_task(hurry.wait())
    await asyncio.wait({running, hurried}, return_when=asyncio.FIRST_COMPLETED)
    if not running.done():
        tree.kill()
        running.cancel()
        await asyncio.wait({running})
        return INTERRUPTED
    hurried.cancel()
    try:
        running.result()
    except FailedError as error:
        raise StackError(f"the platform did not start: {error}", FAILED) from error
    return 0
