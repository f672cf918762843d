"""A keeper dies or stops, with calls under way and while nobody watches."""

import contextlib
import os
import signal

from tests.faults.account import children, forked
from tests.faults.rig import Rig
from tests.services.scheduler.stack import begun, process_of


async def test_a_killed_keeper_is_replaced_and_only_calls_under_way_in_it_fail(rig: Rig) -> None:
    async with rig.load().running() as load:
        await load.answered(50)
        (endpoint,) = rig.endpoints("sort")
        os.kill(rig.running_keepers()[endpoint.pod], signal.SIGKILL)
        await rig.until(lambda: [e for e in rig.endpoints("sort") if e.pod != endpoint.pod])
        await load.answered(100)
    assert all(call.status == 502 for call in load.failed())
    assert len(load.failed()) <= 8


async def test_a_keeper_that_dies_while_podwatch_is_down_is_found_by_the_routers(
    rig: Rig,
) -> None:
    async with rig.load().running() as load:
        await load.answered(25)
        rig.kill("podwatch")
        (endpoint,) = rig.endpoints("sort")
        os.kill(rig.running_keepers()[endpoint.pod], signal.SIGKILL)
        await rig.run("podwatch")
        await rig.until(lambda: [e for e in rig.endpoints("sort") if e.pod != endpoint.pod])
        await load.answered(50)
    assert all(call.status == 502 for call in load.failed())
    assert len(load.failed()) <= 8


async def test_a_process_that_hangs_in_a_call_is_ended_and_replaced(rig: Rig) -> None:
    await rig.deploy("slow", "sleepy", scaling={"min_instances": 1}, limits={"timeout_s": 3.0})
    async with rig.load().running() as load:
        (endpoint,) = rig.endpoints("slow")
        running = await begun(endpoint, "2000")
        stopped = rig.clock()
        os.kill(process_of(rig, endpoint), signal.SIGSTOP)
        await rig.until(lambda: endpoint not in rig.endpoints("slow"))
        rig.note(f"withdrawn {rig.clock() - stopped:.1f} s after it was stopped")
        with contextlib.suppress(OSError):
            assert await running == b"", "no answer, and no waiting for one for ever"
        await rig.until(lambda: rig.endpoints("slow"))
        await load.answered(10)
    assert load.failed() == []


async def test_a_process_that_is_stopped_between_two_calls_is_ended_and_replaced(rig: Rig) -> None:
    await rig.deploy("quiet", "hello", scaling={"min_instances": 1})
    async with rig.load().running() as load:
        (endpoint,) = rig.endpoints("quiet")
        stopped = rig.clock()
        os.kill(process_of(rig, endpoint), signal.SIGSTOP)
        await rig.until(lambda: endpoint not in rig.endpoints("quiet"))
        rig.note(f"withdrawn {rig.clock() - stopped:.1f} s after it was stopped")
        await rig.until(lambda: rig.endpoints("quiet"))
        await load.answered(10)
    assert load.failed() == []


async def test_a_stopped_keeper_is_left_alone_and_replaced(rig: Rig) -> None:
    async with rig.load(per_s=20).running() as load:
        await load.answered(25)
        (endpoint,) = rig.endpoints("sort")
        keeper = rig.running_keepers()[endpoint.pod]
        # With all its processes, or those that serve would go on as if nothing was.
        for pid in (*children(keeper), *forked(keeper), keeper):
            os.kill(pid, signal.SIGSTOP)
        stopped = rig.clock()
        await rig.until(lambda: [e for e in rig.endpoints("sort") if e.pod != endpoint.pod])
        rig.note(f"served elsewhere {rig.clock() - stopped:.1f} s after it was stopped")
        await load.answered(50)
    assert {call.status for call in load.failed()} <= {502, 504}
    rig.note(f"the longest call took {max(call.ms for call in load.calls) / 1000:.1f} s")
