"""Contenders over a real server: one leads, and another takes over."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import msgspec
import pytest

from schemas.leases import Lease
from schemas.streams import LEASES
from services.bus import lease
from services.bus.connection import connect
from services.bus.election import LEASE_S
from services.bus.lease import Reign, lead
from services.bus.streams import ensure_streams


class Throne:
    """Who led when, over all contenders of a test."""

    def __init__(self) -> None:
        self.now: list[tuple[str, Reign]] = []
        self.terms: list[int] = []
        self._changed = asyncio.Condition()

    async def sit(self, name: str, reign: Reign) -> None:
        assert not [r for _, r in self.now if r.holds], "two lead at once"
        async with self._changed:
            self.now.append((name, reign))
            self.terms.append(reign.term)
            self._changed.notify_all()
        try:
            await asyncio.Event().wait()
        finally:
            assert reign.lost.is_set()
            self.now.remove((name, reign))

    async def until(self, *names: str, terms: int = 0, within_s: float = 10) -> str:
        """Wait until one of `names` leads and `terms` terms began; return who leads."""
        async with asyncio.timeout(within_s), self._changed:
            await self._changed.wait_for(
                lambda: (
                    len(self.terms) >= terms
                    and any(n in names and reign.holds for n, reign in self.now)
                )
            )
        return self.now[0][0]


@contextlib.asynccontextmanager
async def contender(server, throne: Throne, name: str) -> AsyncIterator[asyncio.Task]:
    async with connect(server.settings, name) as bus:
        task = asyncio.create_task(
            lead(bus, "scheduler", name, lambda reign: throne.sit(name, reign))
        )
        try:
            yield task
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@pytest.fixture
async def server(nats_server):
    async with connect(nats_server.settings, "setup") as bus:
        await ensure_streams(bus.js, [LEASES])
    return nats_server


async def test_of_two_contenders_one_leads_and_the_other_takes_over_at_a_release(server):
    throne = Throne()
    async with contender(server, throne, "a") as a:
        await throne.until("a", within_s=1)
        async with contender(server, throne, "b"):
            a.cancel()
            await throne.until("b", within_s=1)
            assert throne.terms[1] == throne.terms[0] + 1


async def test_a_leader_that_vanished_is_succeeded_with_a_higher_term(server):
    throne = Throne()
    async with contender(server, throne, "b"), connect(server.settings, "a") as bus:
        await throne.until("b")
        # The leader's record stays, and nobody renews it: as after kill -9.
        await bus.js.publish(
            "wasmfn.leases.scheduler", msgspec.json.encode(Lease("dead/1", throne.terms[0] + 6))
        )
        began = time.monotonic()
        await throne.until("b", terms=2)
        assert throne.terms[1] == throne.terms[0] + 7
        assert time.monotonic() - began >= 1.9


async def test_a_server_restart_keeps_the_leader(server):
    throne = Throne()
    async with contender(server, throne, "a"):
        await throne.until("a")
        async with contender(server, throne, "b"):
            for _ in range(2):
                server.restart()
                async with connect(server.settings, "watch") as bus:
                    renewals = await bus.nc.subscribe("wasmfn.leases.scheduler")
                    await renewals.next_msg(timeout=30)
                    await renewals.next_msg(timeout=30)
                ((name, reign),) = throne.now
                assert (name, len(throne.terms)) == ("a", 1)
                assert reign.holds


async def test_a_leader_that_cannot_renew_steps_down_in_time(server):
    throne = Throne()
    async with contender(server, throne, "a"):
        await throne.until("a")
        ((_, reign),) = throne.now
        with server.frozen():
            async with asyncio.timeout(LEASE_S + 0.5):
                await reign.lost.wait()
            assert not reign.holds
        await throne.until("a", terms=2)


async def test_a_leader_that_resigns_is_elected_again_above_the_term_it_was_told_of(server):
    throne = Throne()
    async with contender(server, throne, "a"):
        await throne.until("a")
        ((_, reign),) = throne.now
        reign.resign(later=reign.term + 5)
        assert not reign.holds
        await throne.until("a", terms=2)
        assert throne.terms[1] == throne.terms[0] + 6


async def test_a_reign_that_ends_by_itself_releases_and_its_failure_is_raised(server):
    failed = 0

    async def fail(reign: Reign) -> None:
        nonlocal failed
        failed = reign.term
        raise ValueError(f"term {reign.term}")

    async def end(reign: Reign) -> None:
        assert reign.term == failed + 1

    async with connect(server.settings, "a") as bus:
        with pytest.raises(ExceptionGroup) as caught:
            await lead(bus, "scheduler", "a", fail)
        assert caught.group_contains(ValueError, match="term")
        async with asyncio.timeout(1):
            await lead(bus, "scheduler", "b", end)


async def test_terms_go_on_after_the_server_lost_its_data(server):
    throne = Throne()
    async with contender(server, throne, "a"):
        await throne.until("a")
        server.lose_data()
        async with connect(server.settings, "setup") as bus:
            await ensure_streams(bus.js, [LEASES])
        await throne.until("a", terms=2)
        assert throne.terms[1] > throne.terms[0]


async def test_terms_grow_though_nobody_remembers_those_of_a_stream_that_was_lost(server):
    throne = Throne()
    async with contender(server, throne, "a"):
        await throne.until("a")
    server.lose_data()
    async with connect(server.settings, "setup") as bus:
        await ensure_streams(bus.js, [LEASES])
    async with contender(server, throne, "b"):
        await throne.until("b")
    assert throne.terms[1] >= throne.terms[0]


async def test_what_is_no_lease_on_the_subject_is_outlasted(server):
    throne = Throne()
    async with connect(server.settings, "vandal") as bus:
        await bus.js.publish("wasmfn.leases.scheduler", b"what?")
    async with contender(server, throne, "a"):
        await throne.until("a")


async def test_a_leader_that_misses_that_it_was_deposed_is_told_again(server, monkeypatch):
    monkeypatch.setattr(lease, "_CANCEL_AGAIN_S", 0.05)
    reigns: asyncio.Queue[Reign] = asyncio.Queue()

    async def govern(reign: Reign) -> None:
        reigns.put_nowait(reign)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    async with connect(server.settings, "a") as bus:
        leading = asyncio.create_task(lead(bus, "scheduler", "a", govern))
        async with asyncio.timeout(60):
            first = await reigns.get()
            with server.frozen():
                await first.lost.wait()
            assert (await reigns.get()).term > first.term
            leading.cancel()
            await asyncio.wait({leading})
