"""Leases: short, so that a dead router is soon replaced; and kept, so that a live one is not."""

import asyncio
import signal

from tests.conftest import NatsServer
from tests.services.router.asynchronous.calls import accepted, ended, hangs_first, ready, told
from tests.services.router.clients import eventually
from tests.services.router.instances import Call
from tests.services.router.platform import Platform

LONGER_THAN_A_LEASE_S = 11.5


async def slow(call: Call) -> None:
    await call.read_body()
    await asyncio.sleep(LONGER_THAN_A_LEASE_S)
    await call.answer(b"ok")


async def test_what_a_killed_router_ran_is_taken_over_long_before_its_timeout(
    platform: Platform,
) -> None:
    begun = asyncio.Event()
    doomed = await ready(platform, hangs_first(begun), timeout_s=3600.0)
    router = await platform.router()
    # Not this one: the first to look has it, and it must be the one that dies.
    router.signal(signal.SIGSTOP)
    location = await accepted(doomed)
    async with asyncio.timeout(30):
        await begun.wait()
    doomed.signal(signal.SIGKILL)
    await doomed.ended()
    router.signal(signal.SIGCONT)
    done = await ended(router, location)
    assert [(a["number"], a["outcome"]) for a in done["attempts"]] == [(1, "lost"), (2, "done")]


async def test_a_run_longer_than_its_lease_is_made_once_though_another_router_waits(
    platform: Platform,
) -> None:
    router = await ready(platform, slow, timeout_s=60.0)
    await platform.router()
    done = await ended(router, await accepted(router))
    assert [a["outcome"] for a in done["attempts"]] == ["done"]
    assert len(platform.instances[0].calls) == 1


async def test_a_run_is_made_once_though_nats_is_restarted_meanwhile(
    platform: Platform, nats_server: NatsServer
) -> None:
    router = await ready(platform, slow, timeout_s=60.0)
    await platform.router()
    location = await accepted(router)
    await eventually(lambda: bool(platform.instances[0].calls))
    await platform.disconnect()
    nats_server.restart()
    await platform.connect()

    async def readable() -> bool:
        return (await router.request("GET", location)).status == 200

    await eventually(readable)
    assert (await told(router, location))["state"] in ("running", "done")
    done = await ended(router, location)
    assert [a["outcome"] for a in done["attempts"]] == ["done"]
    assert len(platform.instances[0].calls) == 1
