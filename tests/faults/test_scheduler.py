"""The leading scheduler dies."""

import signal

from tests.faults.rig import Rig


async def test_a_standby_takes_over_and_no_request_and_no_keeper_notices(rig: Rig) -> None:
    before = rig.running_keepers()
    async with rig.load().running() as load:
        await load.answered(50)
        terms = len(rig.events("leader-elected"))
        rig.kill(await rig.leader())
        await rig.until(lambda: len(rig.events("leader-elected")) > terms)
        await rig.deploy("after", "hello")
        await load.answered(50)
    assert load.failed() == []
    assert before.items() <= rig.running_keepers().items()


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
    assert before.items() <= rig.running_keepers().items()
