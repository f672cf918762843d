"""The supervisor: has children forked and buried, and watches them until then.

It asks the zygote for children on behalf of the control port (see `port`),
watches them by pidfd and scoreboard, tells watchers what becomes of them, and
writes the log. It runs no user code and has one thread. It never blocks: not on
a client, a child or the log; the zygote answers in the time of a fork.
"""

import contextlib
import gc
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from typing import Final, Protocol

from keeper import logs, messages
from keeper.budget import Budget
from keeper.children import STOPPED_S, Child, State, is_stopped
from keeper.patience import Patience
from keeper.runner import STUCK_S
from keeper.scoreboard import Scoreboards
from keeper.watch import Watchers
from keeper.zygote import Zygote, ZygoteError
from schemas.control import WatchInstance, WatchTick
from schemas.unreadable import UNREADABLE

TURN_S: Final = 0.2
"""Longest wait before deadlines and scoreboards are looked at."""
BEAT_S: Final = 1.0
"""How often watchers are told that the keeper lives, and stopped processes are looked for."""
STUCK_GRACE_S: Final = 2 * STUCK_S
"""When a child that should have ended itself is ended."""
PACKETS_A_TURN: Final = 64
"""Of one child, before others are heard."""
LAST_PACKETS: Final = 10_000
"""More than a channel holds: the last words come after all log lines."""


class Port(Protocol):
    """What the supervisor tells the control port, which stands above it (see `port`)."""

    def due(self, now: float) -> float:
        """Return when `look` has something to do that cannot wait for the next turn."""

    def look(self, now: float) -> None:
        """Do what is due by time, not by an event."""

    def agreed(self, child: Child, said: messages.Agreed) -> None:
        """Answer the unload call that the child has answered."""

    def buried(self, child: Child) -> None:
        """Answer who waits for a child that has ended."""


class Supervisor:
    """The loop and what it holds. `run` returns when it was told to end."""

    def __init__(
        self,
        zygote: Zygote,
        engine_hash: str,
        log: logs.Log,
        drain_s: float,
        scoreboards: Scoreboards,
        budget: Budget,
    ) -> None:
        self._zygote = zygote
        self.engine_hash = engine_hash
        self._log = log
        self._drain_s = drain_s
        self._scoreboards = scoreboards
        self._budget = budget
        self.boot = os.urandom(8).hex()
        self.children: dict[int, Child] = {}
        self.stopping = False
        self.port: Port | None = None
        """Where control calls come in; standalone there is none."""
        self.watchers = Watchers(self.on, self.off)
        self.on_exit: Callable[[Child, State], None] | None = None
        """Told of each child that has ended, and of the state it was in."""
        self._was_signalled = False
        self._stop_by = 0.0
        self._selector = selectors.DefaultSelector()
        self._next_beat = 0.0
        self._zygote_stopped = Patience()
        self._unloads = 0

    def run(self) -> bool:
        """Serve until SIGTERM or SIGINT, then drain the children, within the bound given.

        Returns:
            True if a signal ended it, False if `stop` did.

        Raises:
            ZygoteError: the zygote has ended, and all children with it.
        """
        wake, wake_end = socket.socketpair()
        wake_end.setblocking(False)
        signal.set_wakeup_fd(wake_end.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        self.on(wake, lambda: self._signalled(wake))
        self.on(self._zygote.channel, self._orphaned)
        gc.freeze()  # what was imported stays
        gc.enable()
        while not (self.stopping and not self.children):
            for key, _ in self._selector.select(self._patience()):
                key.data()
            self._look()
        self.watchers.close()
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
            if not (serving and child.send(self.unload("drain", 0, self._drain_s))):
                child.kill("the keeper ended before it served")
            else:
                child.drain_by(self._stop_by)
                self.changed(child, "draining", "the keeper ends")

    @property
    def loaded(self) -> int:
        """How many children are, or are about to be, a function's."""
        return sum(child.state != "spare" for child in self.children.values())

    def say(self, text: str, *, level: logs.Level = "info") -> None:
        """Write a line of the keeper's own to the log."""
        self._log.write(logs.line(text, level=level))

    def spawn(self, state: State, *, warm: bool = False) -> Child:
        """Have a child forked; `warm`: it has time to rehearse.

        Raises:
            OSError: the system has no room for it.
            ZygoteError: there is no zygote any more.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        index = self._budget.reserve()
        scoreboard = self._scoreboards.at(index)
        scoreboard.clear()
        with theirs:
            try:
                pid = self._zygote.fork(theirs, index, warm=warm)
            except OSError:
                self._budget.release(index)
                ours.close()
                raise
        ours.setblocking(False)
        child = Child(pid=pid, state=state, channel=ours, scoreboard=scoreboard, index=index)
        self.children[pid] = child
        self.on(ours, lambda: self._heard(child))
        self.on(child.pidfd, lambda: self._bury(child))
        return child

    def changed(self, child: Child, state: State, reason: str) -> None:
        """Note what became of a child, and tell the watchers."""
        child.state = state
        if (seen := child.seen()) is not None:
            self.watchers.tell(WatchInstance(seen, reason))

    def unload(self, mode: str, idle_s: float, deadline_s: float) -> messages.Unload:
        """Return a message of its own number for a child."""
        self._unloads += 1
        return messages.Unload(
            self._unloads, "drain" if mode == "drain" else "if_idle", idle_s, deadline_s
        )

    def on(self, source: socket.socket | int, action: Callable[[], None]) -> None:
        """Call `action` in each turn in which `source` can be read."""
        self._selector.register(source, selectors.EVENT_READ, action)

    def off(self, source: socket.socket | int) -> None:
        """Forget `source`, if it is known."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(source)

    def _orphaned(self) -> None:
        raise ZygoteError("the zygote has ended, and all function processes with it")

    def _signalled(self, wake: socket.socket) -> None:
        wake.recv(64)
        self._was_signalled = True
        self.stop()

    def _patience(self) -> float:
        if self.port is None:
            return TURN_S
        now = time.monotonic()
        return min(TURN_S, max(0.0, self.port.due(now) - now))

    def _look(self) -> None:
        """Do what is due by time, not by an event."""
        now = time.monotonic()
        for child in self.children.values():
            if reason := child.reason_for_killing(now, STUCK_GRACE_S):
                child.kill(reason)
        if now >= self._next_beat:
            self._next_beat = now + BEAT_S
            self._look_for_stopped(now)
            for child in self.children.values():
                self._tell_of_lost_lines(child)
            self.watchers.tell(WatchTick(self.loaded))
        if self.port is not None:
            self.port.look(now)

    def _look_for_stopped(self, now: float) -> None:
        if self._zygote_stopped.held_s(is_stopped(self._zygote.pid), now) > STOPPED_S:
            raise ZygoteError(f"the zygote was stopped by a signal for more than {STOPPED_S:g} s")
        for child in self.children.values():
            if reason := child.reason_for_burying(now):
                child.kill(reason)

    def _tell_of_lost_lines(self, child: Child) -> None:
        if (lost := child.lost_lines()) > 0:
            self._log.write(logs.lost_lines(lost, child.origin))

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
                self.off(child.channel)  # the pidfd tells the rest
                return
            if packet.startswith(messages.LINE):
                self._log.write(packet[1:].replace(b"\n", b" "))
                continue
            try:
                message = messages.decode_from_child(packet)
            except UNREADABLE:
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
                self.changed(child, "serving", "")
                self.say(f"{child.name}: serves at port {child.port}")
            case messages.Ending(reason=reason):
                child.last_words = reason
            case messages.Agreed():
                if message.draining and child.state == "serving":
                    self.changed(child, "draining", "")
                if self.port is not None:
                    self.port.agreed(child, message)

    def _bury(self, child: Child) -> None:
        self._heard(child, most=LAST_PACKETS)
        self._tell_of_lost_lines(child)
        status = self._zygote.bury(child.pid)
        reason = child.end_reason(os.waitstatus_to_exitcode(status))
        state = child.state
        del self.children[child.pid]
        self.off(child.pidfd)
        self.off(child.channel)
        if self.port is not None:
            self.port.buried(child)
        self.changed(child, "gone", reason)
        hurts = state not in ("draining", "spare")
        self.say(f"{child.name}: {reason}", level="warning" if hurts else "info")
        child.close()
        self._budget.release(child.index)
        if self.on_exit is not None:
            self.on_exit(child, state)
