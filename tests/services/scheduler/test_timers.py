"""Timers: each due time is one call, whoever leads and whoever dies."""

import itertools
import signal
from datetime import datetime

import msgspec

from schemas.invocations import Invocation
from schemas.subjects import INVOCATIONS, SPECS
from services.bus.publish import tombstone
from tests.services.scheduler.stack import Stack

EACH_SECOND = {"function": "f", "schedule": "* * * * * *", "missed": "all", "body": "hello"}


async def queued(stack: Stack) -> list[Invocation]:
    """Return the calls on the queue; nobody takes them here."""
    info = await stack.bus.js.stream_info("INVOCATIONS", INVOCATIONS.wildcard)
    calls = []
    for subject in info.state.subjects or {}:
        raw = await stack.bus.js.get_last_msg("INVOCATIONS", subject)
        calls.append(msgspec.json.decode(raw.data or b"", type=Invocation))
    return calls


def due_times(calls: list[Invocation]) -> list[datetime]:
    return sorted(datetime.fromisoformat(dict(call.headers)["x-due"]) for call in calls)


async def until_due(stack: Stack, times: int) -> None:
    await stack.until(lambda: len(stack.events("timer-due")) >= times)


async def test_a_timer_calls_its_function_once_for_each_due_time(stack: Stack) -> None:
    await stack.apply("timer", "tick", EACH_SECOND)
    await until_due(stack, 3)
    calls = await queued(stack)
    times = due_times(calls)
    assert len(set(times)) == len(times) >= 3
    assert all(time.microsecond == 0 for time in times)
    assert (calls[0].origin, calls[0].origin_name, calls[0].function) == ("timer", "tick", "f")
    assert calls[0].body == b"hello"


async def test_no_due_time_is_lost_or_doubled_when_the_leader_dies(bare: Stack) -> None:
    bare.start("scheduler", "one")
    await bare.until(lambda: bare.events("leader-elected"))
    await bare.apply("timer", "tick", EACH_SECOND)
    await until_due(bare, 2)
    bare.kill("one", signal.SIGKILL)
    before = len(await queued(bare))
    bare.start("scheduler", "two")
    await bare.until(lambda: len(bare.events("leader-elected")) == 2)
    await until_due(bare, before + 5)
    times = due_times(await queued(bare))
    gaps = {(b - a).total_seconds() for a, b in itertools.pairwise(times)}
    assert gaps == {1.0}


async def test_a_bad_schedule_is_rejected_and_the_good_one_stands(stack: Stack) -> None:
    good = await stack.apply("timer", "tick", EACH_SECOND)
    await until_due(stack, 1)
    bad = await stack.apply("timer", "tick", {**EACH_SECOND, "schedule": "nonsense"})
    await stack.until(lambda: stack.events("spec-rejected"))
    status = stack.seen.status["wasmfn.status.timer.default.tick"]
    assert (status.observed_revision, status.active_revision) == (bad, good)
    assert status.field == "$.schedule"
    await until_due(stack, len(stack.events("timer-due")) + 2)


async def test_a_paused_timer_and_one_that_is_gone_call_nobody(stack: Stack) -> None:
    await stack.apply("timer", "tick", {**EACH_SECOND, "paused": True})
    await stack.apply("timer", "tock", EACH_SECOND)
    await until_due(stack, 3)
    assert {call.origin_name for call in await queued(stack)} == {"tock"}
    await tombstone(stack.bus, SPECS.subject(kind="timer", namespace="default", name="tock"))
    await stack.until(lambda: stack.events("deleted"))
    await stack.apply("timer", "other", EACH_SECOND)
    told = len([e for e in stack.events("timer-due") if e.name == "tock"])
    await stack.until(lambda: len([e for e in stack.events("timer-due") if e.name == "other"]) > 2)
    assert len([e for e in stack.events("timer-due") if e.name == "tock"]) <= told + 1
