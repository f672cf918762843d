"""The network between routers and keepers is slow, loses packets, or is cut."""

import asyncio
import os
from collections.abc import Iterator

import pytest

from tests.faults.link import ADDRESS, Link, namespace
from tests.faults.load import Load
from tests.faults.rig import LONG, SPEC, Rig

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs root for a network of its own")

TIMEOUT_S = float(SPEC["limits"]["timeout_s"])
LATEST_S = TIMEOUT_S + 30.0
"""The function's timeout, and how long a router may park a call before."""


@pytest.fixture(autouse=True)
def link() -> Iterator[Link]:
    """A network namespace with the platform in it, and keepers behind a link."""
    with namespace() as made:
        yield made


@pytest.fixture
def keeper_ip(link: Link) -> str:
    return ADDRESS


async def test_a_slow_and_lossy_network_fails_in_time_or_not_at_all(rig: Rig, link: Link) -> None:
    async with rig.load(per_s=5).running() as load:
        await load.answered(10)
        link.delay_s, link.loss = 0.2, 0.05
        begun = rig.now()
        for _ in range(5 if LONG else 1):
            await load.answered(60)
        _in_time(load)
        rig.note(f"at 200 ms each way and 5 % loss: {load.figures()}")
        link.delay_s, link.loss = 0.0, 0.0
        assert [call for call in load.calls if call.at > begun and not call.failed]
        await _recovered(rig, load)
    _in_time(load)


async def test_a_cut_fails_calls_in_time_and_heals_by_itself(rig: Rig, link: Link) -> None:
    async with rig.load(per_s=10).running() as load:
        await load.answered(20)
        link.loss = 1.0
        # The length of the cut is the fault itself.
        await asyncio.sleep(40.0 if LONG else 6.0)
        link.loss = 0.0
        await _recovered(rig, load)
    _in_time(load)


async def _recovered(rig: Rig, load: Load) -> None:
    """Return once a second's worth of calls in a row have succeeded; note how long it took."""
    healed = rig.now()
    async with asyncio.timeout(90):
        while True:
            since = rig.now()
            await load.answered(20)
            if [c for c in load.calls if c.at >= since] and not load.failed(since):
                break
    failed = [call.at - healed for call in load.failed(healed)]
    rig.note(f"the last call that failed was due {max(failed, default=0.0):.1f} s after the end")


def _in_time(load: Load) -> None:
    assert {call.status for call in load.failed()} <= {502, 503, 504}, load.failed()
    assert max(call.ms for call in load.calls) < LATEST_S * 1000
