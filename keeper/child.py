"""The life of one child: become a function's process, lock the door, serve, drain, end.

A child takes one load call and never another. It is forked before the call
comes, if there was time, and has then gone through the motions once: most of a
child's start is the kernel copying pages as they are first touched. It reads the
call's body itself, so that code and secrets never pass through the zygote's
memory. Until it has locked itself in (see `confine`) no user code runs; after
that nothing else does.
"""

import asyncio
import contextlib
import gc
import hashlib
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec
import uvloop

from keeper import artifact, confine, logs, messages
from keeper.answer import Program
from keeper.budget import Budget
from keeper.call import Outcome
from keeper.control import ControlCall, RefusedError, Verify, response
from keeper.engine import Function, Host, ModuleError, Sandbox
from keeper.runner import Runner
from keeper.scoreboard import Scoreboard
from keeper.server import Connection
from keeper.service import MAX_CONNECTIONS, Service, Serving
from schemas.control import InstanceState, LoadReply, LoadRequest, decode_load
from schemas.specs import MIB

MAX_LOAD_BYTES: Final = 512 * MIB
READ_TIMEOUT_S: Final = 10.0
"""Longest pause within the body of a load call."""
DRAIN_LINGER_S: Final = 1.0
"""How long 421 is answered after the last request, while clients are connected: they may have
sent one more before they were told."""
_DRAIN_CHECK_S: Final = 0.02


class Inherited(msgspec.Struct, frozen=True):
    """What the zygote hands to a child."""

    zygote: int
    """Its process id."""
    channel: socket.socket
    scoreboard: Scoreboard
    budget: Budget
    budget_index: int
    host: Host
    filter_program: bytes
    """See `confine.compile_filter`."""
    engine_hash: str


class Loader(msgspec.Struct, frozen=True):
    """What a child that will take a load call needs besides."""

    cache_dir: Path
    verify_artifact: Verify
    empty_command: int
    """Descriptor of a precompiled module that does nothing, to warm up with."""


class Plan(msgspec.Struct, frozen=True):
    """What a child is to be."""

    origin: logs.Origin
    program: Program
    sandbox: Sandbox
    variables: dict[str, str]
    token: bytes
    concurrency: int
    body_bytes: int


def become(inherited: Inherited, keep: set[int]) -> None:
    """Turn a fresh fork into a process of its own: signals, descriptors, end with the zygote."""
    confine.die_with_parent(inherited.zygote)
    signal.set_wakeup_fd(-1)
    # The zygote decides how its children end; a Ctrl-C reaches all of them.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    keep = keep | {0, 1, 2, inherited.channel.fileno()}
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 -- names are enough
        if int(name) not in keep:
            with contextlib.suppress(OSError):
                os.close(int(name))


def take_load(inherited: Inherited, loader: Loader, *, warm: bool) -> NoReturn:
    """Wait for a load call, become what it says, answer the call and serve.

    `warm`: there is time to go through the motions before.
    """
    become(inherited, {loader.empty_command})
    loop = _new_loop()
    if warm:
        _warm_up(inherited.host, loader, loop)
    packet, descriptors, _, _ = socket.recv_fds(inherited.channel, messages.MAX_PACKET, 2)
    if not packet:
        os._exit(0)  # the zygote needs no spare child any more
    handover = messages.decode_handover(packet)
    connection, listener = (socket.socket(fileno=d) for d in descriptors)
    connection.settimeout(READ_TIMEOUT_S)
    steps = _Steps(handover.since)
    steps.done("fork")
    _load(inherited, loader, handover.call, connection, listener, loop, steps)


def _load(
    inherited: Inherited,
    loader: Loader,
    call: ControlCall,
    connection: socket.socket,
    listener: socket.socket,
    loop: asyncio.AbstractEventLoop,
    steps: "_Steps",
) -> NoReturn:
    try:
        request, code = _read_request(connection, call)
        steps.done("body")
        descriptor = _obtain(loader, request, code, inherited.engine_hash)
        # Not before: who is told `artifact-missing` sends it for the same instance, and must not
        # hear of the process that lacked it as of that instance's end.
        _tell(inherited, messages.Identified(_instance_of(request, listener)))
        del code  # this frame lives as long as the process
        steps.done("artifact")
        child = _Child(inherited, listener, _plan_of(request), descriptor, loop)
        steps.done("prepare")

        def answer() -> None:
            steps.done("confine")
            _tell(inherited, messages.Serving())
            host, port = listener.getsockname()[:2]
            reply = LoadReply(request.instance, host, port, os.getpid(), steps.ms)
            with contextlib.suppress(OSError):  # the watch stream says it as well
                connection.sendall(response(200, reply))
            connection.close()

        child.serve(answer)
    except RefusedError as refused:
        with contextlib.suppress(OSError):
            connection.sendall(refused.response)
        _end(inherited, str(refused), status=1)
    except Exception as error:
        unexpected = RefusedError("internal", f"the child failed: {type(error).__name__}")
        with contextlib.suppress(OSError):
            connection.sendall(unexpected.response)
        raise


def serve_local(
    inherited: Inherited, listener: socket.socket, plan: Plan, descriptor: int
) -> NoReturn:
    """Become the process of a module that was given on the command line, and serve."""
    become(inherited, {descriptor, listener.fileno()})
    try:
        child = _Child(inherited, listener, plan, descriptor, _new_loop())
    except RefusedError as refused:
        _end(inherited, str(refused), status=1)
    child.serve(lambda: _tell(inherited, messages.Serving()))


def _new_loop() -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


def _warm_up(host: Host, loader: Loader, loop: asyncio.AbstractEventLoop) -> None:
    """Touch what a load and a first call will touch, without a thread being started."""
    path = f"/proc/self/fd/{loader.empty_command}"
    function = Function(host, path, Sandbox(memory_bytes=MIB, output_bytes=0, timeout_s=1.0), {})
    function.call([b"warm"]).step()
    function.close()
    os.close(loader.empty_command)
    loader.verify_artifact(bytes(64), b"")
    loop.run_until_complete(asyncio.sleep(0))
    gc.collect()


def last_words(channel: socket.socket, error: BaseException) -> None:
    """Tell the zygote why the child could not go on."""
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


class _Steps:
    """A stopwatch for the steps of a load."""

    def __init__(self, since: float) -> None:
        self._since = since
        self.ms: dict[str, float] = {}

    def done(self, name: str) -> None:
        now = time.monotonic()
        self.ms[name] = round((now - self._since) * 1e3, 3)
        self._since = now


def _read_request(connection: socket.socket, call: ControlCall) -> tuple[LoadRequest, memoryview]:
    if call.content_length > MAX_LOAD_BYTES:
        raise RefusedError("too-large", f"a load call may have {MAX_LOAD_BYTES} bytes")
    if call.expects_continue:
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = bytearray(call.content_length)
    view = memoryview(body)
    while view:
        try:
            count = connection.recv_into(view)
        except TimeoutError as error:
            raise RefusedError("timeout", "the body did not arrive in time") from error
        if not count:
            raise RefusedError("bad-request", "the body ends before its length")
        view = view[count:]
    if call.claims is None or hashlib.sha256(body).hexdigest() != call.claims.body_sha256:
        raise RefusedError("unsigned", "the body is not the one that was signed")
    try:
        request, code = decode_load(memoryview(body))
    except msgspec.DecodeError as error:
        raise RefusedError("bad-request", f"the body is no load request: {error}") from error
    if request.interface == "http":
        raise RefusedError("bad-request", "interface `http` is not supported yet")
    return request, code


def _obtain(loader: Loader, request: LoadRequest, code: memoryview, engine_hash: str) -> int:
    """Return a sealed, checked memory file with the artifact, sent along or from the cache."""
    if code:
        descriptor = artifact.sealed(code)
        artifact.check(descriptor, request.artifact, engine_hash, loader.verify_artifact)
        # A full disk costs time later, not the load.
        with contextlib.suppress(OSError):
            artifact.store(loader.cache_dir, request.artifact, code)
        return descriptor
    try:
        descriptor = artifact.sealed_copy(artifact.cached(loader.cache_dir, request.artifact))
    except OSError as error:
        raise RefusedError(
            "artifact-missing", "the artifact is not in the keeper's cache; send it along"
        ) from error
    artifact.check(descriptor, request.artifact, engine_hash, loader.verify_artifact)
    return descriptor


def _plan_of(request: LoadRequest) -> Plan:
    argv = [request.file_name, *request.arguments]
    return Plan(
        origin=logs.Origin(request.namespace, request.function, request.instance),
        program=Program(
            interface=request.interface,
            argv=[a.encode() for a in argv],
            variables={n.encode(): v.encode() for n, v in request.variables.items()},
        ),
        sandbox=Sandbox(
            memory_bytes=request.limits.memory_mib * MIB,
            output_bytes=request.limits.output_bytes,
            timeout_s=request.limits.timeout_s,
        ),
        variables=request.variables,
        token=request.token.encode(),
        concurrency=request.concurrency,
        body_bytes=request.limits.body_bytes,
    )


def _instance_of(request: LoadRequest, listener: socket.socket) -> InstanceState:
    return InstanceState(
        instance=request.instance,
        namespace=request.namespace,
        function=request.function,
        revision=request.revision,
        port=listener.getsockname()[1],
        pid=os.getpid(),
        state="loading",
    )


def _tell(inherited: Inherited, message: messages.FromChild) -> None:
    # The zygote reads all the time; a message waits, unlike a log line.
    with contextlib.suppress(OSError):
        inherited.channel.send(messages.encode(message))


def _end(inherited: Inherited, reason: str, *, status: int = 0) -> NoReturn:
    _tell(inherited, messages.Ending(reason))
    os._exit(status)


class _Child:
    """A function's process, from the prepared module to its end."""

    def __init__(
        self,
        inherited: Inherited,
        listener: socket.socket,
        plan: Plan,
        descriptor: int,
        loop: asyncio.AbstractEventLoop,
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
        self._loop.set_exception_handler(self._on_defect)
        scoreboard = inherited.scoreboard
        sandbox_mib = -(-plan.sandbox.memory_bytes // MIB)
        share = inherited.budget.share(inherited.budget_index, sandbox_mib)
        self._service = Service(
            Serving(plan.program, plan.token, plan.concurrency, plan.body_bytes),
            Runner(self._function, scoreboard, share, self._loop),
            scoreboard,
            share,
            self._loop,
            self._report,
        )
        self._drain_until = 0.0
        self._linger_until = 0.0

    def serve(self, ready: Callable[[], None]) -> NoReturn:
        """Lock in, call `ready` when the listener listens, answer requests until told to end."""
        self._inherited.channel.setblocking(False)
        self._loop.add_reader(self._inherited.channel.fileno(), self._on_message)
        self._loop.run_until_complete(self._live(ready))
        os._exit(1)  # nothing ends it but the exits below

    async def _live(self, ready: Callable[[], None]) -> None:
        # In one run of the loop: it makes sockets of its own when it starts.
        server = await self._loop.create_server(
            lambda: Connection(self._service),
            sock=self._listener,
            backlog=1024,
            start_serving=False,
        )
        self._lock_in()
        await server.start_serving()
        ready()
        await server.serve_forever()

    def _lock_in(self) -> None:
        """Give up everything that is not needed to serve."""
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        os.close(null)
        sandbox = self._plan.sandbox
        weaker = confine.confine(
            self._inherited.filter_program,
            file_bytes=max(sandbox.output_bytes + 1, sandbox.stderr_bytes),
            # Four files for each call while it begins.
            descriptors=MAX_CONNECTIONS + 4 * self._plan.concurrency + 64,
        )
        for sentence in weaker:
            self._log(logs.line(sentence, level="warning", origin=self._plan.origin))
        gc.collect()
        gc.freeze()

    def _on_message(self) -> None:
        try:
            packet = self._inherited.channel.recv(messages.MAX_PACKET)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            os._exit(1)  # the zygote is gone; its end kills us anyway
        unload = messages.decode_from_zygote(packet)
        idle_s = self._inherited.scoreboard.idle_s
        agreed = unload.mode == "drain" or (self._service.quiet() and idle_s >= unload.idle_s)
        if agreed:
            self._drain(unload.deadline_s)
        _tell(self._inherited, messages.Agreed(unload.number, agreed, idle_s))

    def _drain(self, deadline_s: float) -> None:
        now = time.monotonic()
        if self._service.draining:
            self._drain_until = min(self._drain_until, now + deadline_s)
            return
        self._service.draining = True
        self._drain_until = now + deadline_s
        self._linger_until = now + DRAIN_LINGER_S
        self._loop.call_soon(self._check_drained)

    def _check_drained(self) -> None:
        now = time.monotonic()
        if not self._service.quiet():
            self._linger_until = now + DRAIN_LINGER_S
        elif not self._service.connections or now >= self._linger_until:
            _end(self._inherited, "drained")
        if now >= self._drain_until:
            _end(self._inherited, "drained, with requests still in flight at the deadline")
        self._loop.call_later(_DRAIN_CHECK_S, self._check_drained)

    def _on_defect(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        what = place_of(error) if isinstance(error, BaseException) else str(context["message"])
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
