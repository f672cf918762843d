"""Runs a child's invocations in turns: short ones at once, long ones a slice at a time.

Most calls end within their first slice and are answered without a task, a
timer or a turn of the event loop. The others wait in a queue; each turn of
the loop runs one slice of the first, so that new requests get in between.

A host call that waits (a sleep is `poll_oneoff`) is no compiled code and gives
no way: it holds its process until it returns, or until the ticker's thread sees
that the call is past its deadline, answers for it and ends the process (the
supervisor would, if that failed). A function that sleeps wants more processes, not
more concurrency.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from keeper.answer import Invocation
from keeper.budget import Share
from keeper.call import Call, Outcome
from keeper.function import Function
from keeper.loop import Loop
from keeper.patience import Patience
from keeper.scoreboard import Scoreboard

STUCK_S: Final = 2.0
"""A slice that runs so long past its call's deadline is in a host call that will not end. On a
machine with too much to do a slice may be late by itself, and others would end with it."""

Done = Callable[[Outcome], None]


class Runner:
    """The invocations of one function in this process."""

    def __init__(
        self,
        function: Function,
        scoreboard: Scoreboard,
        budget: Share,
        loop: Loop,
        on_stuck: Callable[[], None],
    ) -> None:
        """`on_stuck` is to end the process (see `STUCK_S`); it is called in another thread."""
        self._function = function
        self._scoreboard = scoreboard
        self._budget = budget
        self._loop = loop
        self._ticker = function.ticker
        self._ticker.on_tick = self._look
        self._on_stuck = on_stuck
        self._running: tuple[Call, Done] | None = None
        self._late = Patience()
        self._looked_at: Call | None = None
        self._waiting: deque[tuple[Call, Done]] = deque()

    def run(self, invocation: Invocation, done: Done) -> Call | None:
        """Begin an invocation; `done` is called with its outcome, maybe before this returns.

        Returns the call if it goes on. One that is `abandoned` ends at its next turn.

        Raises:
            ValueError: WASI does not take the arguments.
        """
        call = self._function.call(invocation.argv, invocation.stdin, invocation.variables)
        self._scoreboard.began()
        self._budget.take()
        outcome = self._slice(call, done)
        if outcome is not None:
            self._ended()
            done(outcome)
            return None
        if not self._waiting:
            self._loop.call_soon(self._turn)
        self._waiting.append((call, done))
        return call

    def _ended(self) -> None:
        self._scoreboard.ended()
        self._budget.give()

    def _slice(self, call: Call, done: Done) -> Outcome | None:
        self._running = call, done
        self._ticker.enter()
        self._scoreboard.enter(call.deadline)
        outcome = call.step()
        self._scoreboard.leave()
        self._ticker.leave()
        self._running = None
        return outcome

    def _look(self) -> None:
        if (running := self._running) is None:
            return
        call, done = running
        now = time.monotonic()
        if call is not self._looked_at:
            self._looked_at, self._late = call, Patience()
        if self._late.held_s(now > call.deadline, now) > STUCK_S:
            done(call.stuck())
            self._on_stuck()

    def _turn(self) -> None:
        call, done = self._waiting.popleft()
        outcome = call.abandon() if call.abandoned else self._slice(call, done)
        if outcome is None:
            self._waiting.append((call, done))
        if self._waiting:
            self._loop.call_soon(self._turn)
        if outcome is not None:
            self._ended()
            done(outcome)
