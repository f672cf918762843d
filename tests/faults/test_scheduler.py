"""The leading scheduler dies, or sleeps, or its clock jumps."""

import asyncio
import signal
from pathlib import Path

import pytest

from tests.faults.load import Load
from tests.faults.rig import FUNCTION, PER_S, SPEC, Rig

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")


async def test_a_standby_takes_over_and_no_request_and_no_keeper_notices(rig: Rig) -> None:
    before = rig.running_keepers()
    async with rig.load().running() as load:
        await load.answered(50)
        terms = len(rig.events("leader-elected"))
        killed = rig.clock()
        rig.kill(await rig.leader())
        await rig.until(lambda: len(rig.events("leader-elected")) > terms)
        rig.note(f"a standby leads {rig.clock() - killed:.2f} s after the leader was killed")
        await rig.deploy("after", "hello")
        await load.answered(50)
    assert load.failed() == []
    assert before == rig.running_keepers()


async def test_a_leader_that_dies_while_it_starts_keepers_leaves_none_too_many(rig: Rig) -> None:
    async with rig.load().running() as load:
        for number in range(3):
            module = await rig.upload("hello")
            revision = await rig.apply("function", "f", {"module": module}, f"space-{number}")
            # Somewhere between the build and the first process, another place in each turn.
            await rig.until(lambda n=number: _said(rig, f"space-{n}"))
            name = await rig.leader()
            rig.kill(name)
            await rig.run(name)
            await rig.status("f", "active", revision, namespace=f"space-{number}")
        await load.answered(25)
    assert load.failed() == []
    for number in range(3):
        of = [
            k
            for k in rig.keepers().values()
            if k.labels.get("wasmfn/namespace") == f"space-{number}"
        ]
        assert len(of) == 1


def _said(rig: Rig, namespace: str) -> bool:
    events = [event for event in rig.seen.events if event.namespace == namespace]
    return len(events) >= 1 + int(namespace[-1])


async def test_a_leader_that_was_paused_does_no_harm_when_it_wakes(rig: Rig) -> None:
    before = rig.running_keepers()
    async with rig.load().running() as load:
        await load.answered(25)
        paused = await rig.leader()
        terms = len(rig.events("leader-elected"))
        rig.services[paused].send_signal(signal.SIGSTOP)
        await rig.until(lambda: len(rig.events("leader-elected")) > terms)
        rig.services[paused].send_signal(signal.SIGCONT)
        await rig.deploy("after", "hello")
        await load.answered(25)
    assert load.failed() == []
    assert await rig.leader() != paused
    assert before == rig.running_keepers()


async def test_leaders_that_sleep_in_the_middle_of_their_work_write_nothing_late(rig: Rig) -> None:
    last: dict[str, int] = {}

    async def publish(turn: int) -> None:
        for number in range(600):
            name = f"nap-{number % 100}"
            spec = {"function": FUNCTION, "path": f"/{name}/{turn}/{number}"}
            last[name] = await rig.apply("route", name, spec)

    async with rig.load(per_s=20).running() as load:
        for turn in range(3):
            terms, begun = len(rig.events("leader-elected")), len(rig.revisions)
            publishing = asyncio.create_task(publish(turn))
            await rig.until(lambda begun=begun: len(rig.revisions) > begun + 50)
            paused = rig.services[await rig.leader()]
            paused.send_signal(signal.SIGSTOP)
            await rig.until(lambda terms=terms: len(rig.events("leader-elected")) > terms)
            paused.send_signal(signal.SIGCONT)
            await publishing
        await rig.until(lambda: rig.routes("nap-") == last)
        for name in last:
            await rig.delete("route", name)
        await rig.until(lambda: not rig.routes("nap-"))
    assert load.failed() == []
    assert rig.never_back()


@pytest.mark.skipif(not FAKETIME.exists(), reason="needs Debian's libfaketime")
async def test_a_step_of_the_clock_moves_no_lease_and_calls_no_timer_twice(rig: Rig) -> None:
    rig.directory.joinpath("clock").write_text("+0\n")
    rig.environment = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(rig.directory / "clock"),
        "FAKETIME_CACHE_DURATION": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    for name in ("scheduler-a", "scheduler-b", "router-a", "router-b", "builder", "podwatch"):
        assert await rig.stop(name) == 0
        await rig.run(name)
    await rig.apply(
        "timer", "tick", {"function": FUNCTION, "schedule": "* * * * * *", "missed": "skip"}
    )
    await rig.until(lambda: len(_ticks(rig)) >= 2)
    terms, leader = len(rig.events("leader-elected")), await rig.leader()
    async with rig.load().running() as load:
        await load.answered(25)
        for step in ("+3600\n", "-3600\n", "+0\n"):
            rig.directory.joinpath("clock").write_text(step)
            await load.answered(150)
            await rig.deploy(FUNCTION, variables={"STEP": step.strip()}, **SPEC)
    assert load.failed() == []
    assert (len(rig.events("leader-elected")), await rig.leader()) == (terms, leader)
    due = _ticks(rig)
    assert len(due) == len(set(due)), "a due time is called once"
    rig.note(f"{len(due)} calls of a timer of each second")
    await rig.delete("timer", "tick")


def _ticks(rig: Rig) -> list[str]:
    """The invocations that the timer has brought, by their id."""
    return [
        str(event.fields["invocation"])
        for event in rig.events("invocation-done")
        if event.fields.get("origin") == "timer"
    ]


async def test_a_leader_that_dies_between_its_answer_and_the_endpoint_fails_no_request(
    rig: Rig,
) -> None:
    await rig.deploy("cold", FUNCTION, scaling={"idle_timeout_s": 0.5})
    route = await rig.apply("route", "cold", {"function": "cold", "path": "/cold"})
    await rig.status("cold", "active", route, kind="route")
    await rig.until(lambda: not rig.endpoints("cold"))
    # Demands are answered, and no endpoint can be written down.
    config = (await rig.bus.js.stream_info("ENDPOINTS")).config
    await rig.bus.js.update_stream(config.evolve(max_msg_size=1))
    load = Load(rig.routers, "cold", PER_S)
    rig.loads.append(load)
    async with load.running():
        await load.answered(25)
        assert load.failed() == []
        assert not rig.endpoints("cold")
        terms = len(rig.events("leader-elected"))
        rig.kill(await rig.leader())
        await rig.bus.js.update_stream(config)
        await rig.until(lambda: len(rig.events("leader-elected")) > terms)
        # The next leader ends the process that nobody has told it of, and has another one.
        await rig.until(lambda: rig.endpoints("cold"))
        await load.answered(100)
    assert load.failed() == []
