"""wasmfn.checks: facts become findings with advice."""

import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas.leases import Lease
from schemas.pods import LABEL_ROLE, PodFact, PodPhase
from services.bus.streams import ensure_buckets, ensure_streams
from wasmfn import checks
from wasmfn.client import connect
from wasmfn.discovery import Platform

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def keeper(uid: str, phase: PodPhase, *, ready: bool) -> bytes:
    fact = PodFact(uid, "n", uid, phase, NOW, ready=ready, labels={LABEL_ROLE: "keeper"})
    return msgspec.json.encode(fact)


@pytest.mark.parametrize(
    ("payloads", "state", "detail"),
    [
        ([], "bad", "0 of 0 ready"),
        ([keeper("a", "running", ready=True)], "good", "1 of 1 ready"),
        ([keeper("a", "dead", ready=False)], "bad", "0 of 0 ready"),
        (
            [keeper("a", "running", ready=True), keeper("b", "pending", ready=False)],
            "warning",
            "1 of 2 ready",
        ),
    ],
)
def test_keepers_count_while_they_live(payloads: list[bytes], state: str, detail: str) -> None:
    found = checks.keepers(payloads)
    assert (found.state, found.detail) == (state, detail)


def test_without_a_lease_no_scheduler_leads() -> None:
    assert checks.leader([]).state == "bad"
    assert checks.leader([msgspec.json.encode(Lease("host", 3))]).detail == "host in term 3"


def test_a_clock_that_is_off_and_a_disk_that_is_full_are_told() -> None:
    told = {"ts": NOW.isoformat()}
    assert checks.clock(told, NOW).state == "good"
    assert checks.clock(told, NOW + timedelta(seconds=9)).state == "warning"
    assert checks.clock({}, NOW).state == "good"
    assert checks.disk(Path("/"), 1 << 20).state == "bad"
    assert checks.disk(Path("/"), 1 << 28).state == "warning"
    assert checks.disk(Path("/"), 1 << 40).state == "good"


def test_a_port_where_nobody_listens_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert checks.router(url).state == "good"
    assert checks.router(url).state == "bad"
    assert checks.service("router", url).state == "bad"


async def test_a_nats_without_streams_is_told_and_one_with_them_is_good(nats_server: Any) -> None:
    async with connect(Platform(nats_url=nats_server.url)) as client:
        found = {check.name: check async for check in checks.on_the_bus(client)}
        assert found["nats"].state == "good"
        assert found["streams"].state == "bad"
        await ensure_streams(client.bus.js)
        await ensure_buckets(client.bus.js)
        found = {check.name: check async for check in checks.on_the_bus(client)}
        assert found["streams"].state == found["clock"].state == "good"
        assert found["leader"].state == found["keepers"].state == "bad"
        assert all(check.advice for check in found.values() if check.state != "good")


async def test_dead_letters_that_fill_their_store_are_told_of_with_what_makes_room(
    nats_server: Any,
) -> None:
    async with connect(Platform(nats_url=nats_server.url)) as client:
        await ensure_streams(client.bus.js)
        config = (await client.bus.js.stream_info("DEAD")).config
        await client.bus.js.update_stream(config.evolve(max_bytes=1100))
        await client.bus.js.publish("wasmfn.dead.default.f.x", b"x" * 1000)
        check = await checks.streams(client, ["DEAD"])
    assert check.state == "warning"
    assert "wasmfn dead prune" in check.advice
