"""The protocol of one invocation: whatever crashes between two writes, it is accounted for.

The real `Deliveries` over places in memory, where every write can be the last
thing that a router does: before it, or after it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from schemas.invocations import Answer, DeadLetter, Invocation, Result
from schemas.specs import Asynchronous, Destination, Retry
from services.bus.errors import Conflict
from services.router.asynchronous.cancel import Cancellations
from services.router.asynchronous.delivery import Deliveries
from services.router.asynchronous.execution import Unanswered
from services.router.asynchronous.interruption import Interruptions
from services.router.asynchronous.metrics import AsyncMetrics
from services.router.asynchronous.outlet import Message
from services.router.state import Function

ATTEMPTS = 3
STATUSES = st.sampled_from([200, 404, 500, 0])


class Crash(BaseException):
    """The router is gone."""


class Queued:
    """A message of the queue, and what became of its present delivery."""

    def __init__(self, queue: "Memory", invocation: Invocation) -> None:
        self.subject = f"wasmfn.invocations.default.{invocation.function}.{invocation.id}"
        self.data = msgspec.json.encode(invocation)
        self.number = 0
        self.unheard = 0
        """How many acknowledgements NATS does not hear."""
        self._queue = queue

    async def acknowledge(self) -> bool:
        self._queue.step()
        if self.unheard:
            self.unheard -= 1
            return False
        self._queue.messages.pop(self.subject, None)
        self._queue.step()
        return True

    async def extend(self) -> None:
        pass

    async def put_back(self, delay_s: float) -> None:
        assert delay_s >= 0


class Memory:
    """The queue, the results and the dead letters, with a router that can die at each write."""

    def __init__(self) -> None:
        self.messages: dict[str, Queued] = {}
        self.results: dict[str, Result] = {}
        self.words: dict[str, int] = {}
        self.letters: dict[str, DeadLetter] = {}
        self.sent: dict[str, Message] = {}
        self.steps_left: int | None = None

    def step(self) -> None:
        if self.steps_left is not None:
            self.steps_left -= 1
            if self.steps_left < 0:
                raise Crash

    async def enqueue(self, invocation: Invocation) -> None:
        self.step()
        queued = Queued(self, invocation)
        self.messages.setdefault(queued.subject, queued)
        self.step()

    async def result_at(self, name: tuple[str, str, str]) -> tuple[Result, int] | None:
        found = self.results.get(name[2])
        return (found, self.words[name[2]]) if found else None

    async def queued(self, name: tuple[str, str, str]) -> Invocation | None:
        queued = self.messages.get(f"wasmfn.invocations.{'.'.join(name)}")
        return msgspec.json.decode(queued.data, type=Invocation) if queued else None

    async def remove_queued(self, name: tuple[str, str, str], run: int) -> None:
        self.step()
        found = await self.queued(name)
        if found is not None and found.run == run:
            del self.messages[f"wasmfn.invocations.{'.'.join(name)}"]
        self.step()

    async def dead(self, name: tuple[str, str, str]) -> DeadLetter | None:
        return self.letters.get(name[2])

    async def put_result(self, result: Result, ttl_s: float, expected: int | None = None) -> None:
        assert ttl_s > 0
        self.step()
        if expected not in (None, self.words.get(result.id, 0)):
            raise Conflict("results", expected or 0)
        self.results[result.id] = result
        self.words[result.id] = self.words.get(result.id, 0) + 1
        self.step()

    async def put_dead(self, letter: DeadLetter) -> None:
        self.step()
        self.letters[letter.id] = letter
        self.step()

    async def send(self, message: Message) -> None:
        self.step()
        self.sent[message.id] = message
        self.step()


class Says:
    """A function that answers what the test wants next."""

    def __init__(self) -> None:
        self.status = 200
        self.slow: tuple[asyncio.Event, int] | None = None
        """The next run ends with this status, and not before the event."""
        self.meanwhile: Callable[[], Awaitable[None]] | None = None
        """What happens in the middle of the next run."""
        self.runs: dict[str, int] = {}

    async def run(self, invocation: Invocation, function: Function) -> Answer:
        self.runs[invocation.id] = self.runs.get(invocation.id, 0) + 1
        status = self.status
        if self.slow is not None:
            (over, status), self.slow = self.slow, None
            await over.wait()
        if self.meanwhile is not None:
            (happens, self.meanwhile) = (self.meanwhile, None)
            await happens()
        if status == 0:
            raise Unanswered(502, "no answer")
        return Answer(status, (), b"out", 3)


class Protocol(RuleBasedStateMachine):
    """Accept, deliver, crash and redrive in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory()
        self.function = Says()
        self.accepted: dict[str, int] = {}
        self.forgotten = 0
        self.cancelled: dict[str, tuple[int, int]] = {}
        """In which run each was cancelled, and how often it had been run then."""
        rules = Asynchronous(
            retry=Retry(attempts=ATTEMPTS, first_delay_s=0),
            on_success=Destination(subject="shop.done"),
            on_failure=Destination(subject="shop.failed"),
        )
        self.f = Function(("default", "f"), 1, 1.0, 1, "stdin", rules)
        self.interruptions = Interruptions()
        self.deaf = False
        """No router hears that its attempt is not wanted any more."""
        self.deliveries = Deliveries(
            self.memory, self.function, self.memory.send, AsyncMetrics(), lambda _: None,
            self.interruptions,
        )  # fmt: skip
        self.cancellations = Cancellations(
            cast("Any", None), cast("Any", self.memory), lambda _: self.f, AsyncMetrics(),
            lambda _: None, self._interrupt,
        )  # fmt: skip

    @rule()
    def accept(self) -> None:
        name = f"{len(self.accepted):032x}"
        self.accepted[name] = 1
        invocation = Invocation(
            namespace="default", function="f", id=name, accepted_at=datetime.now(UTC),
            origin="http", correlation="c", traceparent="t",
        )  # fmt: skip
        asyncio.run(self.memory.enqueue(invocation))

    @precondition(lambda self: self.memory.messages)
    @rule(
        data=st.data(),
        status=STATUSES,
        crash=st.integers(0, 8) | st.none(),
    )
    def deliver(self, data: Any, status: int, crash: int | None) -> None:
        self.deliver_one(data.draw(st.sampled_from(sorted(self.memory.messages))), status, crash)

    def deliver_one(self, subject: str, status: int, crash: int | None) -> None:
        message = self.memory.messages[subject]
        message.number += 1
        self.function.status = status
        self.memory.steps_left = crash
        turn = asyncio.Semaphore(1)
        try:
            asyncio.run(self.deliveries.carry(message, self.f, 60.0, turn))
        except Crash:
            pass
        finally:
            self.memory.steps_left = None

    @precondition(lambda self: self.memory.messages)
    @rule(
        data=st.data(),
        first=STATUSES,
        second=STATUSES,
        cancels=st.booleans(),
        deaf=st.booleans(),
    )
    def deliver_twice(self, data: Any, first: int, second: int, cancels: bool, deaf: bool) -> None:
        """A killed server has forgotten a delivery, or a lease is over: the slower one ends last.

        Somebody may cancel when only the faster one has ended.
        """
        subject = data.draw(st.sampled_from(sorted(self.memory.messages)))
        name = subject.rpartition(".")[2]
        message = self.memory.messages[subject]
        self.deaf = deaf
        message.number += 1
        self.forgotten += 1

        async def both() -> None:
            over = asyncio.Event()
            self.function.slow, self.function.status = (over, second), first
            turn = asyncio.Semaphore(2)
            slow = asyncio.create_task(self.deliveries.carry(message, self.f, 60.0, turn))
            while self.function.slow is not None and not slow.done():  # noqa: ASYNC110 - a few turns
                await asyncio.sleep(0)
            self.function.slow = None
            await self.deliveries.carry(message, self.f, 60.0, turn)
            if cancels:
                await self._cancel(name)
                for _ in range(0 if deaf else 20):
                    await asyncio.sleep(0)
                # Of what had ended before nobody is told.
                assert deaf or slow.done() or self.memory.results[name].state != "cancelled"
            ended, sent = self.memory.results[name], len(self.memory.sent)
            over.set()
            await slow
            if ended.state in ("done", "dead", "cancelled"):
                assert (self.memory.results[name], len(self.memory.sent)) == (ended, sent)

        asyncio.run(both())

    @precondition(lambda self: self.accepted)
    @rule(data=st.data(), crash=st.integers(0, 6) | st.none())
    def cancel(self, data: Any, crash: int | None) -> None:
        name = data.draw(st.sampled_from(sorted(self.accepted)))
        self.memory.steps_left = crash
        try:
            asyncio.run(self._cancel(name))
        except Crash:
            pass
        finally:
            self.memory.steps_left = None

    @precondition(lambda self: self.memory.messages)
    @rule(
        data=st.data(),
        status=STATUSES,
        crash=st.integers(0, 8) | st.none(),
        ends=st.booleans(),
        deaf=st.booleans(),
    )
    def cancel_in_the_middle(
        self, data: Any, status: int, crash: int | None, ends: bool, deaf: bool
    ) -> None:
        """Somebody cancels while an attempt is under way, which may end before it is ended."""
        subject = data.draw(st.sampled_from(sorted(self.memory.messages)))
        name = subject.rpartition(".")[2]

        async def cancelled() -> None:
            await self._cancel(name)
            for _ in range(0 if ends else 3):
                await asyncio.sleep(0)

        self.deaf = deaf
        self.function.meanwhile = cancelled
        self.deliver_one(subject, status, crash)
        self.function.meanwhile = None

    async def _interrupt(self, name: tuple[str, str, str], run: int) -> None:
        if not self.deaf:
            self.interruptions.interrupt(name, run)

    async def _cancel(self, name: str) -> None:
        try:
            reply = await self.cancellations.cancel(("default", "f", name))
        finally:
            # Whoever crashes after the word was stored has cancelled it all the same.
            result = self.memory.results.get(name)
            if result is not None and (result.unwanted or result.state == "cancelled"):
                runs = self.function.runs.get(name, 0)
                self.cancelled.setdefault(name, (result.run, runs))
        if reply.outcome == "ended":
            assert result is not None
            assert result.state in ("done", "dead", "cancelled")

    @precondition(lambda self: self.memory.letters)
    @rule(data=st.data(), crash=st.booleans())
    def redrive(self, data: Any, crash: bool) -> None:
        """Do what `DeadLetters` does, which tests of it do with a real queue."""
        name = data.draw(st.sampled_from(sorted(self.memory.letters)))
        letter = self.memory.letters[name]
        assert letter.invocation is not None
        if f"wasmfn.invocations.default.f.{name}" in self.memory.messages:
            return
        again = msgspec.structs.replace(
            letter.invocation, run=letter.invocation.run + 1, repeatable=True
        )
        asyncio.run(self.memory.enqueue(again))
        if not crash:
            del self.memory.letters[name]

    @invariant()
    def every_accepted_one_is_queued_done_cancelled_or_dead(self) -> None:
        queued = {msgspec.json.decode(m.data)["id"] for m in self.memory.messages.values()}
        for name in self.accepted:
            result = self.memory.results.get(name)
            assert (
                name in queued
                or name in self.memory.letters
                or (result is not None and result.state in ("done", "cancelled"))
            )

    @invariant()
    def what_left_the_queue_has_a_final_result_and_the_dead_a_letter(self) -> None:
        queued = {msgspec.json.decode(m.data)["id"] for m in self.memory.messages.values()}
        for name in self.accepted:
            if name not in queued:
                result = self.memory.results[name]
                assert result.state in ("done", "dead", "cancelled")
                letter = self.memory.letters.get(name)
                run = letter.invocation.run if letter and letter.invocation else 0
                # One that was sent back by a router that died has its old letter still.
                assert run == result.run if result.state == "dead" else run <= result.run
                if result.state != "cancelled":
                    suffix = "success" if result.state == "done" else "failure"
                    assert f"{name}.{result.run}.{suffix}" in self.memory.sent

    @invariant()
    def no_attempt_begins_after_a_cancellation(self) -> None:
        for name, (run, runs) in self.cancelled.items():
            if self.memory.results[name].run == run:
                assert self.function.runs.get(name, 0) == runs

    @invariant()
    def nothing_runs_more_often_than_its_attempts(self) -> None:
        for name, runs in self.function.runs.items():
            result = self.memory.results.get(name)
            run = result.run if result else 1
            queued = self.memory.messages.get(f"wasmfn.invocations.default.f.{name}")
            newest = msgspec.json.decode(queued.data)["run"] if queued else run
            assert runs <= ATTEMPTS * max(run, newest) + self.forgotten

    def teardown(self) -> None:
        """Left alone, everything comes to its end."""
        self.function.status = 500
        for _ in range(ATTEMPTS + 1):
            for message in list(self.memory.messages.values()):
                message.number += 1
                asyncio.run(self.deliveries.carry(message, self.f, 60.0, asyncio.Semaphore(1)))
        assert not self.memory.messages


async def test_a_message_is_taken_off_though_nats_is_away_when_it_has_ended() -> None:
    memory, function = Memory(), Says()
    deliveries = Deliveries(
        memory, function, memory.send, AsyncMetrics(), lambda _: None, Interruptions()
    )
    invocation = Invocation(
        namespace="default", function="f", id="0" * 32, accepted_at=datetime.now(UTC),
        origin="http", correlation="c", traceparent="t",
    )  # fmt: skip
    await memory.enqueue(invocation)
    (message,) = memory.messages.values()
    message.number, message.unheard = 1, 2
    f = Function(("default", "f"), 1, 1.0, 1, "stdin", Asynchronous())
    await deliveries.carry(message, f, 60.0, asyncio.Semaphore(1))
    assert not memory.messages
    assert function.runs == {invocation.id: 1}


TestProtocol = Protocol.TestCase
TestProtocol.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
