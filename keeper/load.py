"""A load call, in the child that takes it: from a fork of nothing to a function's process.

The child is forked before the call comes, if there was time, and has then
rehearsed (see `rehearsal`). It reads the call's body itself, so that code and
secrets never pass through the memory of the zygote or the supervisor.
"""

import contextlib
import hashlib
import os
import socket
import time
from typing import Final, NoReturn

import msgspec

from keeper import artifact, confine, logs, messages
from keeper.answer import Program
from keeper.child import Child, Inherited, Plan, end, tell
from keeper.control import ControlCall, RefusedError, Verify, response
from keeper.loop import Loop
from keeper.rehearsal import rehearse
from keeper.sandbox import Sandbox
from schemas.control import InstanceState, LoadReply, LoadRequest, decode_load
from schemas.specs import MIB
from schemas.unreadable import UNREADABLE

MAX_LOAD_BYTES: Final = 512 * MIB
READ_TIMEOUT_S: Final = 10.0
"""Longest pause within the body of a load call."""


class Loader(msgspec.Struct, frozen=True):
    """What a child that will take a load call needs besides."""

    cache_dir: str
    verify_artifact: Verify


def take_load(inherited: Inherited, loader: Loader, *, warm: bool) -> NoReturn:
    """Wait for a load call, become what it says, answer the call and serve.

    `warm`: there is time to rehearse before.
    """
    loop = Loop()
    if warm:
        # The threads that it starts are older than the lock, and keep this much.
        confine.keep_to(loader.cache_dir)
        loader.verify_artifact(bytes(64), b"")
        rehearse(inherited.host, loop)
    packet, descriptors, _, _ = socket.recv_fds(inherited.channel, messages.MAX_PACKET, 2)
    if not packet:
        end(inherited, "not needed any more")
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
    loop: Loop,
    steps: "_Steps",
) -> NoReturn:
    try:
        request, code = _read_request(connection, call)
        steps.done("body")
        descriptor = _obtain(loader, request, code, inherited.engine_hash)
        # Not before: who is told `artifact-missing` sends it for the same instance, and must not
        # hear of the process that lacked it as of that instance's end.
        tell(inherited, messages.Identified(_instance_of(request, listener)))
        del code  # this frame lives as long as the process
        steps.done("artifact")
        child = Child(inherited, listener, _plan_of(request), descriptor, loop)
        steps.done("prepare")

        def answer() -> None:
            steps.done("confine")
            tell(inherited, messages.Serving())
            host, port = listener.getsockname()[:2]
            reply = LoadReply(request.instance, host, port, os.getpid(), steps.ms)
            with contextlib.suppress(OSError):  # the watch stream says it as well
                connection.sendall(response(200, reply))
            connection.close()

        child.serve(answer)
    except RefusedError as refused:
        with contextlib.suppress(OSError):
            connection.sendall(refused.response)
        end(inherited, str(refused), status=1)
    except Exception as error:
        unexpected = RefusedError("internal", f"the child failed: {type(error).__name__}")
        with contextlib.suppress(OSError):
            connection.sendall(unexpected.response)
        raise


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
    except UNREADABLE as error:
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
