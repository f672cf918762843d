"""An attempt ends when nobody wants it any more, whenever that is said."""

import asyncio

import pytest

from services.router.asynchronous.interruption import Interrupted, Interruption, Interruptions

NAME = ("default", "f", "0" * 32)


async def hang(begun: asyncio.Event) -> None:
    begun.set()
    await asyncio.Event().wait()


async def test_a_call_that_has_begun_is_cancelled() -> None:
    interruption, begun = Interruption(), asyncio.Event()
    call = asyncio.create_task(interruption.over(hang(begun)))
    await begun.wait()
    interruption.ask()
    interruption.ask()
    with pytest.raises(Interrupted):
        await call


async def test_a_call_that_has_not_begun_never_does() -> None:
    interruption, begun = Interruption(), asyncio.Event()
    interruption.ask()
    with pytest.raises(Interrupted):
        await interruption.over(hang(begun))
    assert not begun.is_set()


async def test_what_ended_before_is_what_it_was() -> None:
    async def answers() -> str:
        interruption.ask()
        return "answer"

    interruption = Interruption()
    assert await interruption.over(answers()) == "answer"
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_who_is_cancelled_for_another_reason_is_cancelled() -> None:
    interruption, begun = Interruption(), asyncio.Event()
    call = asyncio.create_task(interruption.over(hang(begun)))
    await begun.wait()
    interruption.ask()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_call_that_is_too_late_by_itself_says_so() -> None:
    async def late() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await Interruption().over(late())


async def test_each_attempt_at_a_run_is_interrupted_and_no_other_one() -> None:
    interruptions = Interruptions()
    begun = [asyncio.Event() for _ in range(4)]
    listed = [(NAME, 1), (NAME, 1), (NAME, 2), (("default", "g", "0" * 32), 1)]

    async def attempt(number: int) -> str:
        with interruptions.of(*listed[number]) as interruption:
            try:
                await interruption.over(hang(begun[number]))
            except Interrupted:
                return "interrupted"
        return ""

    tasks = [asyncio.create_task(attempt(number)) for number in range(4)]
    for event in begun:
        await event.wait()
    interruptions.interrupt(NAME, 1)
    assert await asyncio.gather(*tasks[:2]) == ["interrupted"] * 2
    assert not any(task.done() for task in tasks[2:])
    interruptions.interrupt(NAME, 1)  # There is none any more.
    for task in tasks[2:]:
        task.cancel()
