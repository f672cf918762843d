"""The invariants that the queue's docstring states, one by one, then all at once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.workqueue import FIRST_DELAY_S, LAST_DELAY_S, Agenda, WorkQueue

Handle = Callable[[str], Awaitable[float | None]]


class Gate:
    """A handler that tells of each run and lets the test decide how it ends."""

    def __init__(self) -> None:
        self.started: asyncio.Queue[tuple[str, asyncio.Future[float | None]]] = asyncio.Queue()
        self.running: list[str] = []

    async def handle(self, key: str) -> float | None:
        self.running.append(key)
        outcome: asyncio.Future[float | None] = asyncio.get_running_loop().create_future()
        self.started.put_nowait((key, outcome))
        try:
            return await outcome
        finally:
            self.running.remove(key)

    async def next(self) -> tuple[str, asyncio.Future[float | None]]:
        async with asyncio.timeout(30):
            return await self.started.get()

    async def quiet(self) -> bool:
        """Whether nothing was started, after everything that is due had its turn."""
        for _ in range(20):
            await asyncio.sleep(0)
        return self.started.empty()


@contextlib.asynccontextmanager
async def running(gate: Gate, parallel: int = 8) -> AsyncIterator[WorkQueue[str]]:
    queue: WorkQueue[str] = WorkQueue("test", gate.handle, parallel=parallel)
    task = asyncio.create_task(queue.run())
    yield queue
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_puts_of_a_waiting_key_merge():
    gate = Gate()
    async with running(gate, parallel=1) as queue:
        for key in ("a", "b", "b", "b", "c"):
            queue.put(key)
        for expected in ("a", "b", "c"):
            key, outcome = await gate.next()
            assert key == expected
            outcome.set_result(None)
        assert await gate.quiet()


async def test_a_key_is_never_worked_on_twice_at_once():
    gate = Gate()
    async with running(gate) as queue:
        queue.put("a")
        await gate.next()
        queue.put("a")
        queue.put_after("a", 0)
        assert await gate.quiet()
        assert gate.running == ["a"]


async def test_puts_during_the_work_make_the_key_run_once_more():
    gate = Gate()
    async with running(gate) as queue:
        queue.put("a")
        _, outcome = await gate.next()
        queue.put("a")
        queue.put("a")
        outcome.set_result(None)
        key, outcome = await gate.next()
        assert key == "a"
        outcome.set_result(None)
        assert await gate.quiet()


def test_failures_back_off_exponentially_with_jitter_up_to_a_cap():
    agenda: Agenda[str] = Agenda()
    now = 0.0
    agenda.put("a")
    for failures in range(40):
        assert agenda.take() == "a"
        jitter = 1.0 if failures % 2 else 0.0
        delay_s = agenda.fail("a", now, jitter)
        whole = min(FIRST_DELAY_S * 2**failures, LAST_DELAY_S)
        assert delay_s == pytest.approx(whole if jitter else whole / 2)
        assert agenda.next_time() == now + delay_s
        agenda.advance(now + delay_s * 0.999)
        assert agenda.take() is None
        now += delay_s
        agenda.advance(now)


def test_a_success_resets_the_delay():
    agenda: Agenda[str] = Agenda()
    for _ in range(5):
        agenda.put("a")
        agenda.take()
        agenda.fail("a", 0, 1)
    agenda.put("a")
    agenda.take()
    agenda.finish("a")
    agenda.put("a")
    agenda.take()
    assert agenda.fail("a", 0, 1) == FIRST_DELAY_S


async def test_a_failing_handler_is_run_again_and_hurts_no_other_key(caplog):
    gate = Gate()
    async with running(gate) as queue:
        queue.put("bad")
        _, outcome = await gate.next()
        outcome.set_exception(ValueError("no such thing"))
        key, outcome = await gate.next()
        assert key == "bad"
        queue.put("good")
        assert (await gate.next())[0] == "good"
        outcome.set_result(None)
    assert "test of bad failed and is tried again: no such thing" in caplog.text


def test_a_put_does_not_wait_for_the_delay_after_a_failure():
    agenda: Agenda[str] = Agenda()
    agenda.put("a")
    agenda.take()
    agenda.fail("a", 0, 1)
    agenda.put("a")
    assert agenda.take() == "a"


def test_of_several_delayed_puts_the_earliest_stands_and_none_runs_early():
    agenda: Agenda[str] = Agenda()
    agenda.put_at("a", 5)
    agenda.put_at("a", 3)
    agenda.put_at("a", 9)
    agenda.put_at("b", 4)
    assert agenda.next_time() == 3
    agenda.advance(2.9)
    assert agenda.take() is None
    agenda.advance(3)
    assert agenda.take() == "a"
    agenda.finish("a")
    agenda.advance(100)
    assert [agenda.take(), agenda.take()] == ["b", None]


async def test_what_the_handler_returns_is_when_to_look_again():
    gate = Gate()
    async with running(gate) as queue:
        queue.put("a")
        _, outcome = await gate.next()
        began = asyncio.get_running_loop().time()
        outcome.set_result(0.02)
        assert (await gate.next())[0] == "a"
        assert asyncio.get_running_loop().time() - began >= 0.02


async def test_no_more_handlers_than_allowed_run_at_once():
    gate = Gate()
    async with running(gate, parallel=3) as queue:
        for key in "abcdef":
            queue.put(key)
        outcomes = [(await gate.next())[1] for _ in range(3)]
        assert await gate.quiet()
        assert len(gate.running) == 3
        outcomes[0].set_result(None)
        await gate.next()
        assert len(gate.running) == 3


async def test_close_finishes_what_waits_and_drops_what_waits_for_its_time():
    gate = Gate()
    queue: WorkQueue[str] = WorkQueue("test", gate.handle, parallel=1)
    task = asyncio.create_task(queue.run())
    queue.put("a")
    queue.put("b")
    queue.put_after("later", 0.01)
    _, first = await gate.next()
    queue.put("a")
    queue.close()
    queue.put("c")
    first.set_result(0.01)
    _, second = await gate.next()
    second.set_exception(ValueError("also the last word"))
    key, third = await gate.next()
    assert key == "a"
    third.set_result(None)
    async with asyncio.timeout(30):
        await task
    assert gate.started.empty()


async def test_cancelling_run_cancels_the_handlers():
    gate = Gate()
    async with running(gate) as queue:
        queue.put("a")
        await gate.next()
    assert gate.running == []


class Keys(RuleBasedStateMachine):
    """Any order of events agrees with a model of sets, so nothing is lost and nothing doubled."""

    keys = st.sampled_from("abc")

    def __init__(self) -> None:
        super().__init__()
        self.agenda: Agenda[str] = Agenda()
        self.now = 0.0
        self.waiting: set[str] = set()
        self.working: set[str] = set()
        self.again: set[str] = set()
        self.times: dict[str, float] = {}

    def expect(self, key: str) -> None:
        (self.again if key in self.working else self.waiting).add(key)

    def expect_at(self, key: str, when: float) -> None:
        self.times[key] = min(when, self.times.get(key, when))

    def end(self, key: str) -> None:
        self.working.remove(key)
        if key in self.again:
            self.again.remove(key)
            self.waiting.add(key)

    @rule(key=keys)
    def put(self, key: str) -> None:
        self.agenda.put(key)
        self.expect(key)

    @rule(key=keys, delay=st.floats(0, 10))
    def put_at(self, key: str, delay: float) -> None:
        self.agenda.put_at(key, self.now + delay)
        self.expect_at(key, self.now + delay)

    @rule(step=st.floats(0, 20))
    def advance(self, step: float) -> None:
        self.now += step
        self.agenda.advance(self.now)
        for key in [k for k, when in self.times.items() if when <= self.now]:
            del self.times[key]
            self.expect(key)

    @rule()
    def take(self) -> None:
        key = self.agenda.take()
        assert (key is None) == (not self.waiting)
        if key is not None:
            self.waiting.remove(key)
            assert key not in self.working
            self.working.add(key)

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.working)))
        self.agenda.finish(key)
        self.end(key)

    @precondition(lambda self: self.working)
    @rule(data=st.data(), jitter=st.floats(0, 1))
    def fail(self, data: st.DataObject, jitter: float) -> None:
        key = data.draw(st.sampled_from(sorted(self.working)))
        delay_s = self.agenda.fail(key, self.now, jitter)
        assert 0 < delay_s <= LAST_DELAY_S
        if key not in self.again:
            self.expect_at(key, self.now + delay_s)
        self.end(key)

    @invariant()
    def agrees_with_the_model(self) -> None:
        assert self.agenda.working == len(self.working)
        assert self.agenda.idle == (not self.waiting and not self.working)
        assert self.agenda.next_time() == min(self.times.values(), default=None)


Keys.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestKeys = Keys.TestCase
