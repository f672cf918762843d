"""What the supervisor knows of each child."""

import math
import os
import signal
import socket
import time
from typing import Final, Literal

import msgspec

from keeper import logs, messages
from keeper.caller import Caller
from keeper.patience import Patience
from keeper.scoreboard import Scoreboard
from schemas.control import InstanceState

State = Literal["spare", "loading", "serving", "draining", "gone"]

END_GRACE_S: Final = 1.0
"""How long after its drain deadline a child may take to end by itself."""
STOPPED_S: Final = 5.0
"""How long a process may be stopped by a signal. All of a terminal's are for moments, when they
are continued one after another."""


class PendingUnload(msgspec.Struct, frozen=True):
    """An unload call that waits for the child's answer."""

    caller: Caller
    answer_by: float
    """On the monotonic clock, as all times here."""
    end_by: float


class Child:
    """A process that was forked and not buried yet."""

    def __init__(
        self,
        *,
        pid: int,
        state: State,
        channel: socket.socket,
        scoreboard: Scoreboard,
        index: int,
    ) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.port = 0
        """Of its listener, as soon as it is to load."""
        self.channel = channel
        self.scoreboard = scoreboard
        self.index = index
        """Of its scoreboard and its share of the budget."""
        self.load_by = math.inf
        self.state: State = state
        self.identified: InstanceState | None = None
        self.unloads: dict[int, PendingUnload] = {}
        self.end_by = 0.0
        """When a draining child must have ended; 0: it is not draining."""
        self.last_words = ""
        self._overdue = Patience()
        self._slice_deadline = math.inf
        self._stopped = Patience()
        self._killed_for = ""
        self._lost_lines = 0
        self._since = time.monotonic()

    @property
    def age_s(self) -> float:
        """Seconds since the fork."""
        return time.monotonic() - self._since

    @property
    def id(self) -> str:
        """The instance's id; empty until the child has said it."""
        return self.identified.instance if self.identified is not None else ""

    @property
    def name(self) -> str:
        """How the log calls the child."""
        if self.identified is None:
            return f"process {self.pid}"
        of = self.identified
        return f"{of.namespace}/{of.function} instance {of.instance} (process {self.pid})"

    @property
    def origin(self) -> logs.Origin:
        """Whose lines the child's are."""
        of = self.identified
        return logs.Origin(of.namespace, of.function, of.instance) if of else logs.Origin()

    def identify(self, instance: InstanceState) -> None:
        """Believe what the child says it is, once; pid and port are known better here."""
        if self.identified is None and self.state == "loading":
            self.identified = msgspec.structs.replace(instance, pid=self.pid, port=self.port)

    def seen(self) -> InstanceState | None:
        """Return the instance as watchers see it, or None if it is not known yet."""
        if self.identified is None:
            return None
        board = self.scoreboard
        return msgspec.structs.replace(
            self.identified,
            state=self.state if self.state != "spare" else "loading",
            served=board.served,
            in_flight=board.in_flight,
            idle_s=round(board.idle_s, 3),
        )

    def hand_over(self, packet: bytes, descriptors: list[int]) -> bool:
        """Give a spare child its load call; False if it has died."""
        try:
            socket.send_fds(self.channel, [packet], descriptors)
        except OSError:
            return False
        return True

    def send(self, unload: messages.Unload) -> bool:
        """Pass an unload on; False if the child does not take it."""
        try:
            self.channel.send(messages.encode(unload))
        except OSError:
            return False
        return True

    def drain_by(self, end_by: float) -> None:
        """Expect the child to end by then; an earlier deadline stands."""
        end_by += END_GRACE_S
        self.end_by = min(self.end_by, end_by) if self.end_by else end_by

    def kill(self, reason: str) -> None:
        """End the child at once; `reason` is what watchers will read."""
        if not self._killed_for:
            self._killed_for = reason
            # By pidfd: the pid could be another process's by now.
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def reason_for_killing(self, now: float, stuck_grace_s: float) -> str:
        """Return why the child must be ended at once; empty: it need not."""
        if (deadline := self.scoreboard.slice_deadline) != self._slice_deadline:
            self._slice_deadline, self._overdue = deadline, Patience()
        if self._overdue.held_s(now > deadline, now) > stuck_grace_s:
            return "stuck in a host call past the invocation's deadline"
        if self.state == "loading" and now > self.load_by:
            return "loading took too long"
        if self.end_by and now > self.end_by:
            return "did not end within its drain deadline"
        return ""

    def reason_for_burying(self, now: float) -> str:
        """Return why the child counts as dead though it is there; empty: it does not.

        It costs a system call or three, so it is asked less often.
        """
        if self._stopped.held_s(is_stopped(self.pid), now) > STOPPED_S:
            return f"it was stopped by a signal for more than {STOPPED_S:g} s"
        return ""

    def end_reason(self, exit_code: int) -> str:
        """Return in words why the child ended; `exit_code` is negative for a signal."""
        if exit_code < 0:
            name = signal.Signals(-exit_code).name
            why = self._killed_for or "not by the keeper"
            return f"killed by {name}: {why}"
        if self.last_words:
            return self.last_words
        return f"exited with status {exit_code} without a word"

    def lost_lines(self) -> int:
        """Return how many lines of its log found the channel full since this was last asked."""
        before, self._lost_lines = self._lost_lines, self.scoreboard.lost_lines
        return self._lost_lines - before

    def overdue_answers(self) -> list[int]:
        """Return the numbers of the unload calls that waited too long for the child."""
        now = time.monotonic()
        return [number for number, unload in self.unloads.items() if now > unload.answer_by]

    def close(self) -> None:
        """Give back what the supervisor held for the child."""
        os.close(self.pidfd)
        self.channel.close()


def is_stopped(pid: int) -> bool:
    """Tell whether a signal has stopped the process (state T of proc(5))."""
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.read(descriptor, 512).rpartition(b") ")[2][:1] == b"T"
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
