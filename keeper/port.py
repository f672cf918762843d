"""The control port: who calls, what is obeyed, and which child gets it.

The supervisor reads the head of a load call and no more: the call's connection goes
to a child that was forked ahead, or else to a fresh one, and the child answers.
"""

import contextlib
import functools
import math
import socket
import time
from typing import Final

import msgspec

from keeper import control, messages
from keeper.caller import MAX_BODY_BYTES, Caller
from keeper.children import Child, PendingUnload
from keeper.control import RefusedError, Verify, Window
from keeper.listeners import bind
from keeper.spares import Spares
from keeper.supervisor import Supervisor
from keeper.watch import MAX_WATCHERS
from schemas.control import KeeperHealth, UnloadReply, UnloadRequest, WatchSnapshot
from schemas.names import sha256_hex
from schemas.unreadable import UNREADABLE

MAX_CALLERS: Final = 128
LOAD_TIMEOUT_S: Final = 60.0
AGREE_TIMEOUT_S: Final = 2.0
"""How long a child may take to answer an unload call: it may be in a host call."""


class Control(msgspec.Struct, frozen=True):
    """What a keeper needs to take control calls."""

    listener: socket.socket
    keeper: str
    capacity: int
    host: str
    ports: range
    verify_control: Verify


class ControlPort:
    """The callers and their calls. It belongs to a supervisor and runs in its loop."""

    def __init__(self, supervisor: Supervisor, keeper: Control) -> None:
        self._supervisor = supervisor
        self._keeper = keeper
        self._window = Window()
        self._callers: set[Caller] = set()
        self._spares = Spares()
        keeper.listener.setblocking(False)
        supervisor.on(keeper.listener, self._accept)

    def due(self, now: float) -> float:
        """Return when `look` has something to do that cannot wait for the next turn."""
        return math.inf if self._supervisor.stopping else self._spares.due(now)

    def look(self, now: float) -> None:
        """Do what is due by time, not by an event."""
        for caller in [c for c in self._callers if now > c.deadline]:
            self._hang_up(caller)
        for child in self._supervisor.children.values():
            for number in child.overdue_answers():
                late = RefusedError("timeout", "the instance does not answer")
                self._respond(child.unloads.pop(number).caller, late.response)
        if self._supervisor.stopping:
            return
        if self._spares.missing(now):
            self._spares.add(self._fork_blank(warm=True))
        for child in self._spares.surplus(now):
            child.channel.shutdown(socket.SHUT_WR)  # it ends by itself

    def agreed(self, child: Child, said: messages.Agreed) -> None:
        """Answer the unload call that the child has answered."""
        pending = child.unloads.pop(said.number, None)
        if pending is None:
            return
        if said.draining:
            child.drain_by(pending.end_by)
        reply = UnloadReply("draining" if said.draining else "busy", said.idle_s)
        self._respond(pending.caller, control.response(200 if said.draining else 409, reply))

    def buried(self, child: Child) -> None:
        """Answer who waits for a child that has ended."""
        self._spares.lost(child, time.monotonic())
        for pending in child.unloads.values():
            self._respond(pending.caller, control.response(200, UnloadReply("gone")))

    def _fork_blank(self, *, warm: bool) -> Child:
        return self._supervisor.spawn("spare", warm=warm)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._keeper.listener.accept()
            if len(self._callers) >= MAX_CALLERS:
                # Whoever waits longest has shown the least.
                self._hang_up(min(self._callers, key=lambda c: c.deadline))
            caller = Caller(connection)
            self._callers.add(caller)
            self._supervisor.on(connection, functools.partial(self._progress, caller))

    def _hang_up(self, caller: Caller) -> None:
        self._callers.discard(caller)
        self._supervisor.off(caller.connection)
        caller.connection.close()

    def _respond(self, caller: Caller, response: bytes) -> None:
        try:
            caller.answer(response)
        except OSError:
            self._hang_up(caller)

    def _progress(self, caller: Caller) -> None:
        try:
            if caller.answered:
                if not caller.discard():
                    self._hang_up(caller)
            elif caller.call is None:
                if (call := caller.read_head()) is not None:
                    self._dispatch(caller, call)
            elif (body := caller.read_body()) is not None:
                self._supervisor.off(caller.connection)
                self._pass_unload(caller, caller.call, body)
        except RefusedError as refused:
            self._respond(caller, refused.response)
        except OSError:
            self._hang_up(caller)

    def _dispatch(self, caller: Caller, call: control.ControlCall) -> None:
        keeper, supervisor = self._keeper, self._supervisor
        if (call.method, call.path) == ("GET", "/healthz"):
            health = KeeperHealth(
                keeper.keeper, supervisor.boot, supervisor.engine_hash, keeper.capacity,
                supervisor.loaded, supervisor.stopping,
            )  # fmt: skip
            self._respond(caller, control.response(200, health))
            return
        claims = control.authenticate(call, keeper.keeper, supervisor.boot, keeper.verify_control)
        self._window = control.admit(self._window, claims.term, claims.counter)
        match call.method, call.path:
            case "POST", "/load":
                self._load(caller, call)
            case "POST", "/unload":
                if not 0 < call.content_length <= MAX_BODY_BYTES:
                    raise RefusedError("bad-request", "an unload call has a small JSON body")
                self._progress(caller)
            case "GET", "/watch":
                self._watch(caller)
            case _:
                raise RefusedError("bad-request", f"there is no {call.method} {call.path} here")

    def _load(self, caller: Caller, call: control.ControlCall) -> None:
        keeper, supervisor = self._keeper, self._supervisor
        if supervisor.stopping:
            raise RefusedError("full", "the keeper is about to end")
        if supervisor.loaded >= keeper.capacity:
            raise RefusedError("full", f"the keeper holds {keeper.capacity} processes already")
        since = time.monotonic()
        with bind(keeper.host, keeper.ports) as listener:
            packet = messages.encode(messages.Handover(call, since))
            descriptors = [caller.connection.fileno(), listener.fileno()]
            child = self._spares.take(since)
            if child is None or not child.hand_over(packet, descriptors):
                child = self._fork_blank(warm=False)
                child.hand_over(packet, descriptors)
            child.state = "loading"
            child.port = listener.getsockname()[1]
            child.load_by = since + LOAD_TIMEOUT_S
        self._hang_up(caller)  # the child answers

    def _pass_unload(self, caller: Caller, call: control.ControlCall, body: bytes) -> None:
        if call.claims is None or sha256_hex(body) != call.claims.body_sha256:
            raise RefusedError("unsigned", "the body is not the one that was signed")
        try:
            request = msgspec.json.decode(body, type=UnloadRequest)
        except UNREADABLE as error:
            raise RefusedError("bad-request", f"this is no unload request: {error}") from error
        children = self._supervisor.children.values()
        child = next((c for c in children if c.id == request.instance), None)
        if child is None:
            raise RefusedError("no-such-instance", f"{request.instance} is not loaded here")
        if request.mode == "kill":
            child.kill("unloaded by force")
            self._respond(caller, control.response(200, UnloadReply("gone")))
            return
        unload = self._supervisor.unload(request.mode, request.idle_s, request.deadline_s)
        if not child.send(unload):
            raise RefusedError("busy", "the instance does not take messages")
        now = time.monotonic()
        caller.deadline = now + 2 * AGREE_TIMEOUT_S
        end_by = now + request.deadline_s
        child.unloads[unload.number] = PendingUnload(caller, now + AGREE_TIMEOUT_S, end_by)
        if request.mode == "drain":
            child.drain_by(end_by)  # even if it should be too stuck to agree

    def _watch(self, caller: Caller) -> None:
        keeper, supervisor = self._keeper, self._supervisor
        if supervisor.watchers.full:
            raise RefusedError("full", f"{MAX_WATCHERS} watchers are connected already")
        self._callers.discard(caller)
        self._supervisor.off(caller.connection)
        instances = [seen for c in supervisor.children.values() if (seen := c.seen()) is not None]
        snapshot = WatchSnapshot(keeper.keeper, supervisor.boot, keeper.capacity, instances)
        supervisor.watchers.add(caller.connection, snapshot)
