"""Audience: an object is called active when every router that speaks has it, and not before."""

import asyncio
import time

from services.scheduler.audience import MAX_ROUTERS, SILENT_S, Audience


def test_a_router_is_behind_until_it_says_that_it_has_read_as_far() -> None:
    audience = Audience()
    audience.heard("a", 4, 0.0)
    audience.heard("b", 5, 0.0)
    assert audience.behind(5, 0.0) == ["a"]
    audience.heard("a", 5, 0.1)
    assert audience.behind(5, 0.1) == []


def test_a_silent_router_is_not_waited_for() -> None:
    audience = Audience()
    audience.heard("gone", 4, 0.0)
    assert audience.behind(5, SILENT_S - 0.01) == ["gone"]
    assert audience.behind(5, SILENT_S) == []


def test_made_up_routers_take_bounded_memory_and_silent_ones_make_room() -> None:
    audience = Audience()
    for number in range(2 * MAX_ROUTERS):
        audience.heard(str(number), 0, 0.0)
    assert len(audience.behind(1, 0.0)) == MAX_ROUTERS
    audience.heard("late", 0, SILENT_S)
    assert audience.behind(1, SILENT_S) == ["late"]


async def test_the_wait_ends_with_the_report_of_the_last_router() -> None:
    audience = Audience()
    audience.heard("a", 4, time.monotonic())
    audience.heard("b", 4, time.monotonic())
    waiting = asyncio.create_task(audience.reached(5, 30.0))
    audience.heard("a", 5, time.monotonic())
    await asyncio.sleep(0)
    assert not waiting.done()
    audience.heard("b", 6, time.monotonic())
    assert await waiting


async def test_the_wait_is_bounded() -> None:
    audience = Audience()
    audience.heard("slow", 4, time.monotonic())
    assert not await audience.reached(5, 0.01)
    assert await Audience().reached(5, 0.0)
