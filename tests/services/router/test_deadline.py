"""One timer for a bound that moves."""

import asyncio

from services.router.deadline import Deadline
from tests.services.router.clients import eventually


async def test_it_passes_once_and_only_when_the_last_bound_is_over() -> None:
    loop = asyncio.get_running_loop()
    passed: list[float] = []
    deadline = Deadline(loop, lambda: passed.append(loop.time()))
    deadline.within(0.01)
    began = loop.time()
    deadline.within(0.1)
    await eventually(lambda: bool(passed))
    assert passed[0] - began >= 0.09
    assert not deadline.awaiting


async def test_a_bound_that_comes_nearer_passes_in_its_time() -> None:
    passed = asyncio.Event()
    deadline = Deadline(asyncio.get_running_loop(), passed.set)
    deadline.within(3600)
    deadline.within(0.01)
    async with asyncio.timeout(30):
        await passed.wait()


async def test_what_came_in_time_does_not_pass() -> None:
    loop = asyncio.get_running_loop()
    passed: list[None] = []
    deadline = Deadline(loop, lambda: passed.append(None))
    deadline.within(0.01)
    deadline.clear()
    later = asyncio.Event()
    loop.call_later(0.05, later.set)
    await later.wait()
    deadline.within(0.01)
    deadline.stop()
    later.clear()
    loop.call_later(0.05, later.set)
    await later.wait()
    assert passed == []
