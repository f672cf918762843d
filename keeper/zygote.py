"""The zygote: one thread that has everything imported, forks children and buries them.

It takes control calls, hands each load call to a fresh fork, passes unload
calls on, watches its children by pidfd and scoreboard, tells watchers, and
writes the log. It runs no user code and no WASI, so it has one thread and
forks safely at any time. It never blocks: not on a client, a child or the log.
"""

import contextlib
import functools
import gc
import os
import secrets
import selectors
import signal
import socket
import time
from collections.abc import Callable
from typing import Final, NoReturn

import msgspec

from keeper import child as child_process
from keeper import confine, control, logs, messages
from keeper.budget import Budget
from keeper.caller import MAX_BODY_BYTES, Caller
from keeper.children import Child, PendingUnload, State
from keeper.control import RefusedError, Verify, Window
from keeper.engine import Host
from keeper.listeners import bind
from keeper.load import Loader, take_load
from keeper.scoreboard import Scoreboard
from keeper.watch import Watcher
from schemas.control import (
    KeeperHealth,
    UnloadReply,
    UnloadRequest,
    WatchInstance,
    WatchLine,
    WatchSnapshot,
    WatchTick,
)
from schemas.names import sha256_hex

MAX_CALLERS: Final = 128
MAX_WATCHERS: Final = 16
TURN_S: Final = 0.2
"""Longest wait before deadlines and scoreboards are looked at."""
STUCK_GRACE_S: Final = 2.0
"""A slice that runs so long past its call's deadline is in a host call that will not end. On a
machine with too much to do a slice may be late by itself, and the innocent would die with it."""
LOAD_TIMEOUT_S: Final = 60.0
SPARE_DELAY_S: Final = 0.05
"""How long after a load the next spare child is forked."""
AGREE_TIMEOUT_S: Final = 2.0
"""How long a child may take to answer an unload call: it may be in a host call."""

PACKETS_A_TURN: Final = 64
"""Of one child, before others are heard."""
LAST_PACKETS: Final = 10_000
"""More than a channel holds: the last words come after all log lines."""

Task = Callable[[child_process.Inherited], NoReturn]


class Control(msgspec.Struct, frozen=True):
    """What a keeper needs to take control calls; standalone there is none."""

    listener: socket.socket
    keeper: str
    capacity: int
    host: str
    ports: range
    verify_control: Verify
    loader: Loader


class Zygote:
    """The loop and what it holds. `run` returns when it was told to end."""

    def __init__(
        self,
        host: Host,
        engine_hash: str,
        log: logs.Log,
        control_port: "Control | None",
        drain_s: float,
        budget: Budget,
    ) -> None:
        confine.forbid_io_uring()
        self._filter_program = confine.compile_filter()
        self._host = host
        self._engine_hash = engine_hash
        self._log = log
        self._control = control_port
        self._drain_s = drain_s
        self._budget = budget
        self.boot = secrets.token_hex(8)
        self.children: dict[int, Child] = {}
        self.stopping = False
        self.on_exit: Callable[[Child, State], None] | None = None
        """Told of each child that has ended, and of the state it was in."""
        self._was_signalled = False
        self._stop_by = 0.0
        self._window = Window()
        self._callers: set[Caller] = set()
        self._watchers: set[Watcher] = set()
        self._selector = selectors.DefaultSelector()
        self._next_beat = 0.0
        self._spare: Child | None = None
        self._next_spare = 0.0
        self._unloads = 0

    def run(self) -> bool:
        """Serve until SIGTERM or SIGINT, then drain the children, within the bound given.

        Returns:
            True if a signal ended it, False if `stop` did.
        """
        wake, wake_end = socket.socketpair()
        wake_end.setblocking(False)
        signal.set_wakeup_fd(wake_end.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        self._on(wake, lambda: self._signalled(wake))
        if self._control is not None:
            self._control.listener.setblocking(False)
            self._on(self._control.listener, self._accept)
        gc.collect()
        gc.freeze()  # or each child's first collection would copy every page
        while not (self.stopping and not self.children):
            for key, _ in self._selector.select(TURN_S):
                key.data()
            self._look()
        for watcher in list(self._watchers):
            watcher.connection.close()
        return self._was_signalled

    def stop(self) -> None:
        """Drain all children, then let `run` return."""
        if self.stopping:
            return
        self.stopping = True
        self._stop_by = time.monotonic() + self._drain_s
        self.say(f"draining {self.loaded} function processes, then ending")
        for child in self.children.values():
            serving = child.state in ("serving", "draining")
            if not (serving and child.send(self._unload("drain", 0, self._drain_s))):
                child.kill("the keeper ended before it served")
            else:
                child.drain_by(self._stop_by)
                self._changed(child, "draining", "the keeper ends")

    @property
    def loaded(self) -> int:
        """How many children are, or are about to be, a function's."""
        return len(self.children) - (self._spare is not None)

    def say(self, text: str, *, level: logs.Level = "info") -> None:
        """Write a line of the keeper's own to the log."""
        self._log.write(logs.line(text, level=level))

    def spawn(self, task: Task, state: State) -> Child:
        """Fork a child that runs `task`."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        scoreboard = Scoreboard()
        budget_index = self._budget.reserve()
        zygote = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                # A page of a sibling would let this child speak for it.
                for sibling in self.children.values():
                    sibling.scoreboard.close()
                task(
                    child_process.Inherited(
                        zygote=zygote,
                        channel=theirs,
                        scoreboard=scoreboard,
                        budget=self._budget,
                        budget_index=budget_index,
                        host=self._host,
                        filter_program=self._filter_program,
                        engine_hash=self._engine_hash,
                    )
                )
            except BaseException as error:  # noqa: BLE001 -- nothing may return into the zygote's frames
                child_process.last_words(theirs, error)
            os._exit(1)
        theirs.close()
        ours.setblocking(False)
        child = Child(
            pid=pid,
            state=state,
            channel=ours,
            scoreboard=scoreboard,
            budget_index=budget_index,
        )
        self.children[pid] = child
        self._on(ours, lambda: self._heard(child))
        self._on(child.pidfd, lambda: self._bury(child))
        return child

    # The loop's parts.

    def _on(self, source: socket.socket | int, action: Callable[[], None]) -> None:
        self._selector.register(source, selectors.EVENT_READ, action)

    def _off(self, source: socket.socket | int) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(source)

    def _signalled(self, wake: socket.socket) -> None:
        wake.recv(64)
        self._was_signalled = True
        self.stop()

    def _look(self) -> None:
        """Do what is due by time, not by an event."""
        now = time.monotonic()
        for caller in [c for c in self._callers if now > c.deadline]:
            self._hang_up(caller)
        for child in self.children.values():
            if reason := child.reason_for_killing(now, STUCK_GRACE_S):
                child.kill(reason)
            for number in child.overdue_answers():
                late = RefusedError("timeout", "the instance does not answer")
                self._respond(child.unloads.pop(number).caller, late.response)
        if now >= self._next_beat:
            self._next_beat = now + 1.0
            self._tell_watchers(WatchTick(self.loaded))
        wanted = self._spare is None and not self.stopping and now >= self._next_spare
        if wanted and self._control is not None:
            self._spare = self._fork_blank(self._control, warm=True)

    # Children.

    def _heard(self, child: Child, most: int = PACKETS_A_TURN) -> None:
        for _ in range(most):
            try:
                packet = child.channel.recv(messages.MAX_PACKET)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self._off(child.channel)  # the pidfd tells the rest
                return
            if packet.startswith(messages.LINE):
                self._log.write(packet[1:].replace(b"\n", b" "))
                continue
            try:
                message = messages.decode_from_child(packet)
            except msgspec.DecodeError:
                child.kill("said something that no child says")
                return
            self._act_on(child, message)

    def _act_on(self, child: Child, message: messages.FromChild) -> None:
        match message:
            case messages.Identified(instance=instance):
                if any(c.id == instance.instance for c in self.children.values()):
                    child.kill("an instance of this id is loaded already")
                else:
                    child.identify(instance)
            case messages.Serving() if child.state == "loading":
                self._changed(child, "serving", "")
                self.say(f"{child.name}: serves at port {child.port}")
            case messages.Ending(reason=reason):
                child.last_words = reason
            case messages.Agreed():
                self._agreed(child, message)

    def _agreed(self, child: Child, said: messages.Agreed) -> None:
        if said.draining and child.state == "serving":
            self._changed(child, "draining", "")
        pending = child.unloads.pop(said.number, None)
        if pending is None:
            return
        if said.draining:
            child.drain_by(pending.end_by)
        reply = UnloadReply("draining" if said.draining else "busy", said.idle_s)
        self._respond(pending.caller, control.response(200 if said.draining else 409, reply))

    def _fork_blank(self, keeper: Control, *, warm: bool) -> Child:
        loader = keeper.loader
        return self.spawn(lambda inherited: take_load(inherited, loader, warm=warm), "spare")

    def _changed(self, child: Child, state: State, reason: str) -> None:
        child.state = state
        if (seen := child.seen()) is not None:
            self._tell_watchers(WatchInstance(seen, reason))

    def _bury(self, child: Child) -> None:
        self._heard(child, most=LAST_PACKETS)
        _, status = os.waitpid(child.pid, 0)
        reason = child.end_reason(os.waitstatus_to_exitcode(status))
        state = child.state
        del self.children[child.pid]
        if child is self._spare:
            self._spare = None
            self._next_spare = time.monotonic() + 1.0
        self._off(child.pidfd)
        self._off(child.channel)
        for pending in child.unloads.values():
            self._respond(pending.caller, control.response(200, UnloadReply("gone")))
        self._changed(child, "gone", reason)
        self.say(f"{child.name}: {reason}", level="info" if state == "draining" else "warning")
        child.close()
        self._budget.release(child.budget_index)
        if self.on_exit is not None:
            self.on_exit(child, state)

    # Control calls.

    def _accept(self) -> None:
        assert self._control is not None  # noqa: S101 -- its listener just became readable
        with contextlib.suppress(OSError):
            connection, _ = self._control.listener.accept()
            if len(self._callers) >= MAX_CALLERS:
                # Whoever waits longest has shown the least.
                self._hang_up(min(self._callers, key=lambda c: c.deadline))
            caller = Caller(connection)
            self._callers.add(caller)
            self._on(connection, functools.partial(self._progress, caller))

    def _hang_up(self, caller: Caller) -> None:
        self._callers.discard(caller)
        self._off(caller.connection)
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
                self._off(caller.connection)
                self._pass_unload(caller, caller.call, body)
        except RefusedError as refused:
            self._respond(caller, refused.response)
        except OSError:
            self._hang_up(caller)

    def _dispatch(self, caller: Caller, call: control.ControlCall) -> None:
        assert self._control is not None  # noqa: S101 -- callers come through its listener
        keeper = self._control
        if (call.method, call.path) == ("GET", "/healthz"):
            health = KeeperHealth(
                keeper.keeper, self.boot, self._engine_hash, keeper.capacity,
                self.loaded, self.stopping,
            )  # fmt: skip
            self._respond(caller, control.response(200, health))
            return
        claims = control.authenticate(call, keeper.keeper, self.boot, keeper.verify_control)
        self._window = control.admit(self._window, claims.term, claims.counter)
        match call.method, call.path:
            case "POST", "/load":
                self._load(caller, call, keeper)
            case "POST", "/unload":
                if not 0 < call.content_length <= MAX_BODY_BYTES:
                    raise RefusedError("bad-request", "an unload call has a small JSON body")
                self._progress(caller)
            case "GET", "/watch":
                self._watch(caller, keeper)
            case _:
                raise RefusedError("bad-request", f"there is no {call.method} {call.path} here")

    def _load(self, caller: Caller, call: control.ControlCall, keeper: Control) -> None:
        if self.stopping:
            raise RefusedError("full", "the keeper is about to end")
        if self.loaded >= keeper.capacity:
            raise RefusedError("full", f"the keeper holds {keeper.capacity} processes already")
        since = time.monotonic()
        with bind(keeper.host, keeper.ports) as listener:
            packet = messages.encode(messages.Handover(call, since))
            descriptors = [caller.connection.fileno(), listener.fileno()]
            child, self._spare = self._spare, None
            if child is None or not child.hand_over(packet, descriptors):
                child = self._fork_blank(keeper, warm=False)
                child.hand_over(packet, descriptors)
            # Not at once: the child has the processor now.
            self._next_spare = since + SPARE_DELAY_S
            child.state = "loading"
            child.port = listener.getsockname()[1]
            child.load_by = since + LOAD_TIMEOUT_S
        self._hang_up(caller)  # the child answers

    def _pass_unload(self, caller: Caller, call: control.ControlCall, body: bytes) -> None:
        if call.claims is None or sha256_hex(body) != call.claims.body_sha256:
            raise RefusedError("unsigned", "the body is not the one that was signed")
        try:
            request = msgspec.json.decode(body, type=UnloadRequest)
        except msgspec.DecodeError as error:
            raise RefusedError("bad-request", f"this is no unload request: {error}") from error
        child = next((c for c in self.children.values() if c.id == request.instance), None)
        if child is None:
            raise RefusedError("no-such-instance", f"{request.instance} is not loaded here")
        if request.mode == "kill":
            child.kill("unloaded by force")
            self._respond(caller, control.response(200, UnloadReply("gone")))
            return
        unload = self._unload(request.mode, request.idle_s, request.deadline_s)
        if not child.send(unload):
            raise RefusedError("busy", "the instance does not take messages")
        now = time.monotonic()
        caller.deadline = now + 2 * AGREE_TIMEOUT_S
        end_by = now + request.deadline_s
        child.unloads[unload.number] = PendingUnload(caller, now + AGREE_TIMEOUT_S, end_by)
        if request.mode == "drain":
            child.drain_by(end_by)  # even if it should be too stuck to agree

    def _unload(self, mode: str, idle_s: float, deadline_s: float) -> messages.Unload:
        self._unloads += 1
        return messages.Unload(
            self._unloads, "drain" if mode == "drain" else "if_idle", idle_s, deadline_s
        )

    def _watch(self, caller: Caller, keeper: Control) -> None:
        if len(self._watchers) >= MAX_WATCHERS:
            raise RefusedError("full", f"{MAX_WATCHERS} watchers are connected already")
        self._callers.discard(caller)
        self._off(caller.connection)
        watcher = Watcher(caller.connection)
        instances = [seen for c in self.children.values() if (seen := c.seen()) is not None]
        self._watchers.add(watcher)
        # Nothing comes from a watcher but its end.
        self._on(watcher.connection, functools.partial(self._drop, watcher))
        snapshot = WatchSnapshot(keeper.keeper, self.boot, keeper.capacity, instances)
        self._push(watcher, snapshot)

    def _tell_watchers(self, line: WatchLine) -> None:
        for watcher in list(self._watchers):
            self._push(watcher, line)

    def _push(self, watcher: Watcher, line: WatchLine) -> None:
        if not watcher.push(line):
            self._drop(watcher)

    def _drop(self, watcher: Watcher) -> None:
        self._watchers.discard(watcher)
        self._off(watcher.connection)
        watcher.connection.close()
