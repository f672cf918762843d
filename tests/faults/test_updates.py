"""Functions change under load."""

import json
from pathlib import Path

from schemas import subjects
from services.bus.publish import publish
from tests.faults.rig import FUNCTION, LONG, SPEC, Rig


async def test_updates_of_a_function_fail_no_request(rig: Rig) -> None:
    async with rig.load().running() as load:
        await load.answered(25)
        for n in range(20 if LONG else 5):
            await rig.deploy(FUNCTION, variables={"TURN": str(n)}, **SPEC)
            await load.answered(25)
    assert load.failed() == []


async def test_a_bad_revision_changes_nothing(rig: Rig) -> None:
    before = rig.active()
    async with rig.load().running() as load:
        await load.answered(25)
        revision = await rig.apply("function", FUNCTION, {"module": {"sha256": 5}})
        await rig.status(FUNCTION, "rejected", revision)
        revision = await rig.apply("function", FUNCTION, {"module": {"sha256": "0" * 64}})
        await rig.status(FUNCTION, "failed", revision)
        await load.answered(25)
    assert load.failed() == []
    assert rig.active() == before
    await rig.deploy(FUNCTION, **SPEC)


ROUTES = 10_000 if LONG else 1000
PER_S = 1000
SECONDS = 60 if LONG else 5


async def test_a_flood_of_specs_is_applied_whole_and_in_order_and_kept_in_bounds(rig: Rig) -> None:
    """A thousand specs a second for a minute, and ten thousand deletes; the short form is less."""
    services = {name: process.pid for name, process in rig.services.items()}
    before = {name: _rss_mib(pid) for name, pid in services.items()}
    last: dict[str, int] = {}
    async with rig.load(per_s=20).running() as load:
        begun = rig.clock()
        for number in range(PER_S * SECONDS):
            name = f"flood-{number % ROUTES}"
            # Each one is another path, so that it is a change.
            spec = {"function": FUNCTION, "path": f"/{name}/{number}"}
            subject = subjects.SPECS.subject(kind="route", namespace="default", name=name)
            last[name] = await publish(rig.bus, subject, json.dumps(spec).encode())
            await rig.until_clock(begun + number / PER_S)
        rig.note(f"{len(last)} routes, {PER_S * SECONDS} specs in {rig.clock() - begun:.1f} s")
        await rig.until(lambda: rig.routes("flood-") == last, within_s=120)
        rig.note(f"all in force {rig.clock() - begun - SECONDS:.1f} s after the last was due")
        assert rig.never_back()
        begun = rig.clock()
        for name in last:
            await rig.delete("route", name)
        rig.note(f"{len(last)} deletes in {rig.clock() - begun:.1f} s")
        await rig.until(lambda: rig.routes("flood-") == {}, within_s=120)
        rig.note(f"all gone {rig.clock() - begun:.1f} s after the first delete")
        after = {name: _rss_mib(pid) for name, pid in services.items()}
        rig.note(", ".join(f"{n} {before[n]:.0f} to {after[n]:.0f} MiB" for n in services))
        # Routes, their statuses and what is remembered of them: some KiB for each, not more.
        assert all(after[name] - before[name] < 64 + ROUTES * 0.02 for name in services)
    assert load.failed() == []


def _rss_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024
