"""The life of one child: lock the door, serve, drain, end.

A child is one revision of one function and never another. How it learns which
is told in `load`. Until it has locked itself in (see `confine`) no user code
runs; after that nothing else does.
"""

import contextlib
import gc
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from keeper import confine, logs, messages
from keeper.answer import Program
from keeper.budget import Budget
from keeper.call import Outcome
from keeper.control import RefusedError
from keeper.engine import ModuleError
from keeper.function import Function, Host
from keeper.loop import Loop
from keeper.runner import Runner
from keeper.sandbox import Sandbox
from keeper.scoreboard import Scoreboard
from keeper.server import Connection
from keeper.service import MAX_BUFFERED_BYTES, MAX_CONNECTIONS, Service, Serving
from schemas.specs import MIB

DRAIN_LINGER_S: Final = 1.0
"""How long 421 is answered after the last request, while clients are connected: they may have
sent one more before they were told."""
_UNHEARD_S: Final = 0.25
"""How long it is answered although no client is connected: a router that has not heard of the end
yet may connect, and what it sends to a process that ends has perhaps run, for all it knows."""
BUFFER_BYTES: Final = MAX_BUFFERED_BYTES + 256 * MIB
"""What a process may take besides its sandboxes: bodies, output, and what is made of them."""
_BACKLOG: Final = 1024
_DRAIN_CHECK_S: Final = 0.02


class Inherited(msgspec.Struct, frozen=True):
    """What a child has from the zygote."""

    channel: socket.socket
    scoreboard: Scoreboard
    budget: Budget
    budget_index: int
    host: Host
    filter_program: bytes
    """See `confine.compile_filter`."""
    statm: int
    """See `confine.open_statm`."""
    engine_hash: str


class Plan(msgspec.Struct, frozen=True):
    """What a child is to be."""

    origin: logs.Origin
    program: Program
    sandbox: Sandbox
    variables: dict[str, str]
    token: bytes
    concurrency: int
    body_bytes: int


def serve_local(
    inherited: Inherited, listener: socket.socket, plan: Plan, descriptor: int
) -> NoReturn:
    """Become the process of a module that was given on the command line, and serve."""
    try:
        child = Child(inherited, listener, plan, descriptor, Loop())
    except RefusedError as refused:
        end(inherited, str(refused), status=1)
    child.serve(lambda: tell(inherited, messages.Serving()))


def last_words(channel: socket.socket, error: BaseException) -> None:
    """Tell the supervisor why the child could not go on."""
    with contextlib.suppress(OSError):
        channel.send(messages.encode(messages.Ending(f"failed: {place_of(error)}")))


def place_of(error: BaseException) -> str:
    """Return what went wrong and where, but no values: they may be secret."""
    place = ""
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        place = f"{Path(code.co_filename).name}:{trace.tb_lineno} in {code.co_name}"
        trace = trace.tb_next
    errno = f" (errno {error.errno})" if isinstance(error, OSError) else ""
    return f"{type(error).__name__}{errno} at {place}"


def tell(inherited: Inherited, message: messages.FromChild) -> None:
    """Send `message` to the supervisor."""
    # The supervisor reads all the time; a message waits, unlike a log line.
    with contextlib.suppress(OSError):
        inherited.channel.send(messages.encode(message))


def end(inherited: Inherited, reason: str, *, status: int = 0) -> NoReturn:
    """End this process, with last words for the supervisor."""
    tell(inherited, messages.Ending(reason))
    os._exit(status)


class Child:
    """A function's process, from the prepared module to its end."""

    def __init__(
        self,
        inherited: Inherited,
        listener: socket.socket,
        plan: Plan,
        descriptor: int,
        loop: Loop,
    ) -> None:
        self._inherited = inherited
        self._listener = listener
        self._loop = loop
        self._plan = plan
        try:
            self._function = Function(
                inherited.host,
                f"/proc/self/fd/{descriptor}",
                plan.sandbox,
                plan.variables,
                plan.concurrency,
            )
        except ModuleError as error:
            raise RefusedError("bad-artifact", str(error)) from error
        os.close(descriptor)
        self._loop.on_defect = self._on_defect
        scoreboard = inherited.scoreboard
        sandbox_mib = -(-plan.sandbox.memory_bytes // MIB)
        share = inherited.budget.share(inherited.budget_index, sandbox_mib)
        self._service = Service(
            Serving(plan.program, plan.token, plan.concurrency, plan.body_bytes),
            Runner(self._function, scoreboard, share, self._loop, self._stuck),
            scoreboard,
            share,
            self._loop,
            self._report,
        )
        self._drain_until = 0.0
        self._linger_until = 0.0
        self._unheard_until = 0.0

    def serve(self, ready: Callable[[], None]) -> NoReturn:
        """Lock in, call `ready` when the listener listens, answer requests until told to end."""
        self._inherited.channel.setblocking(False)
        self._loop.add_reader(self._inherited.channel.fileno(), self._on_message)
        self._loop.listen(self._listener, lambda: Connection(self._service))
        self._lock_in()
        self._listener.listen(_BACKLOG)
        ready()
        self._loop.run()
        raise AssertionError("nothing ends the loop but the exits below")

    def _lock_in(self) -> None:
        """Give up everything that is not needed to serve."""
        plan = self._plan
        sandboxes = (plan.concurrency + 1) * plan.sandbox.memory_bytes
        if budget_mib := self._inherited.budget.limit_mib:
            sandboxes = min(sandboxes, budget_mib * MIB + plan.sandbox.memory_bytes)
        weaker = confine.confine(
            self._inherited.filter_program,
            self._inherited.statm,
            self._function.prepare,
            file_bytes=plan.sandbox.file_bytes,
            # Four files for each call while it begins.
            descriptors=MAX_CONNECTIONS + 4 * plan.concurrency + 64,
            data_bytes=sandboxes + BUFFER_BYTES,
        )
        for sentence in weaker:
            self._log(logs.line(sentence, level="warning", origin=plan.origin))
        # Without a collection before: it would write to 0.17 MiB of shared pages, and find little.
        gc.freeze()

    def _on_message(self) -> None:
        try:
            packet = self._inherited.channel.recv(messages.MAX_PACKET)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            os._exit(1)  # the supervisor is gone; its end kills us anyway
        unload = messages.decode_from_supervisor(packet)
        idle_s = self._inherited.scoreboard.idle_s
        agreed = unload.mode == "drain" or (self._service.quiet() and idle_s >= unload.idle_s)
        if agreed:
            self._drain(unload.deadline_s)
        tell(self._inherited, messages.Agreed(unload.number, agreed, idle_s))

    def _drain(self, deadline_s: float) -> None:
        now = time.monotonic()
        if self._service.draining:
            self._drain_until = min(self._drain_until, now + deadline_s)
            return
        self._service.draining = True
        self._drain_until = now + deadline_s
        self._linger_until = now + DRAIN_LINGER_S
        self._unheard_until = now + _UNHEARD_S
        self._loop.call_soon(self._check_drained)

    def _check_drained(self) -> None:
        now = time.monotonic()
        quiet = self._service.quiet()
        if not quiet:
            self._linger_until = now + DRAIN_LINGER_S
        over = self._linger_until if self._service.connections else self._unheard_until
        if now >= self._drain_until or (quiet and now >= over):
            # Refused is better than cut, and the end of a process takes its time.
            self._listener.close()
            cut = "" if quiet else ", with requests still in flight at the deadline"
            end(self._inherited, f"drained{cut}")
        self._loop.call_later(_DRAIN_CHECK_S, self._check_drained)

    def _stuck(self) -> NoReturn:
        """Send what is answered, and end: the thread that serves is in a host call for good."""
        for connection in self._service.connections:
            connection.flush()
        end(self._inherited, "stuck in a host call past the invocation's deadline", status=1)

    def _on_defect(self, error: Exception) -> None:
        what = place_of(error)
        self._log(logs.line(f"a defect: {what}", level="error", origin=self._plan.origin))

    def _report(self, request_id: str, status: int, outcome: Outcome) -> None:
        origin = self._plan.origin
        for encoded in logs.stderr_lines(outcome.stderr, origin, request_id):
            self._log(encoded)
        if outcome.error is not None:
            text = f"the invocation failed ({status}): {outcome.error}"
            self._log(logs.line(text, level="warning", origin=origin, request_id=request_id))

    def _log(self, encoded: bytes) -> None:
        try:
            self._inherited.channel.send(messages.LINE + encoded, socket.MSG_DONTWAIT)
        except OSError:
            self._inherited.scoreboard.lost_line()
