import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from schemas import subjects
from schemas.events import Event
from schemas.pods import PodFact
from services.bus.connection import connect
from services.bus.events import event_log
from services.bus.follow import follow
from services.bus.publish import publish, tombstone
from services.bus.state import Put, Snapshot
from services.bus.streams import ensure_streams
from services.podwatch.logs import LogCarrier
from services.podwatch.node import NOT_LISTED, Node
from services.podwatch.offsets import Offsets
from services.podwatch.sources.processes import ENDED, ProcessSource


@pytest.fixture
async def bus(nats_server):
    async with connect(nats_server.settings, "test") as bus:
        await ensure_streams(bus.js)
        yield bus


@contextlib.asynccontextmanager
async def podwatch(bus, pods, state: Path, name: str = "n1") -> AsyncIterator[Node]:
    """Run what a podwatch process runs, until left."""
    async with event_log(bus) as events:
        logs = LogCarrier(bus, Offsets(state / "offsets.json"))
        node = Node(name, bus, ProcessSource(pods.directory), logs, events)
        running = [asyncio.create_task(node.run()), asyncio.create_task(logs.run())]
        try:
            yield node
        finally:
            for task in running:
                task.cancel()
            await asyncio.wait(running)


class Facts:
    """Every fact on PODS as a reader sees it, in order."""

    def __init__(self, bus) -> None:
        self._updates = follow(bus, "PODS")
        self._read: list[PodFact] = []

    async def until(self, holds: Callable[[PodFact], bool], within_s: float = 15) -> PodFact:
        async with asyncio.timeout(within_s):
            while True:
                for fact in self._read:
                    if holds(fact):
                        return fact
                match await anext(self._updates):
                    case Snapshot(entries):
                        payloads = [entry.payload for entry in entries]
                    case Put(entry):
                        payloads = [entry.payload]
                    case _:
                        payloads = []
                self._read += [msgspec.json.decode(p, type=PodFact) for p in payloads]

    def story(self, uid: str) -> list[tuple[str, bool]]:
        return [(fact.phase, fact.ready) for fact in self._read if fact.uid == uid]


def is_ready(uid: str) -> Callable[[PodFact], bool]:
    return lambda fact: fact.uid == uid and fact.ready


def is_dead(uid: str) -> Callable[[PodFact], bool]:
    return lambda fact: fact.uid == uid and fact.phase == "dead"


async def test_a_keeper_is_told_ready_with_what_its_probe_said(bus, pods, tmp_path):
    async with podwatch(bus, pods, tmp_path):
        pod = pods.start("u1")
        facts = Facts(bus)
        fact = await facts.until(is_ready("u1"))
    assert (fact.node, fact.name, fact.ip, fact.port) == ("n1", "keeper-u1", pod.ip, pod.port)
    assert (fact.boot, fact.engine, fact.capacity) == ("boot of u1", "e1", 8)
    assert (fact.labels, fact.started_at) == (pod.labels, pod.created_at)


async def test_a_real_keeper_is_told_ready_and_dead_at_once(bus, pods, tmp_path):
    async with podwatch(bus, pods, tmp_path):
        pods.start_keeper("u1")
        facts = Facts(bus)
        fact = await facts.until(is_ready("u1"))
        assert (fact.capacity, bool(fact.boot), bool(fact.engine)) == (7, True, True)
        pods.kill("u1")
        await facts.until(is_dead("u1"), within_s=2)


async def test_a_keeper_is_not_told_ready_before_it_answers(bus, pods, tmp_path):
    async with podwatch(bus, pods, tmp_path):
        pods.start("u1", delay_s=0.3)
        facts = Facts(bus)
        await facts.until(is_ready("u1"))
        assert facts.story("u1") == [("running", False), ("running", True)]


async def test_a_keeper_killed_with_9_is_told_dead(bus, pods, tmp_path):
    async with podwatch(bus, pods, tmp_path):
        pods.start("u1")
        facts = Facts(bus)
        await facts.until(is_ready("u1"))
        pods.kill("u1")
        fact = await facts.until(is_dead("u1"), within_s=2)
        assert (fact.ready, fact.reason) == (False, ENDED)


async def test_a_death_that_nobody_watched_is_told_by_the_next_podwatch(bus, pods, tmp_path):
    async with podwatch(bus, pods, tmp_path):
        pods.start("u1")
        await Facts(bus).until(is_ready("u1"))
    pods.kill("u1")
    pods.processes["u1"].wait()
    for path in (pods.log("u1"), pods.directory / "u1" / "pod.json"):
        path.unlink()
    async with podwatch(bus, pods, tmp_path):
        fact = await Facts(bus).until(is_dead("u1"))
        assert fact.reason == NOT_LISTED


async def test_a_restart_says_nothing_about_what_has_not_changed(bus, pods, tmp_path):
    async with podwatch(bus, pods, tmp_path):
        pods.start("u1")
        await Facts(bus).until(is_ready("u1"))
    before = (await bus.js.stream_info("PODS")).state.last_seq
    async with podwatch(bus, pods, tmp_path):
        pods.start("u2")
        facts = Facts(bus)
        await facts.until(is_ready("u2"))
        assert facts.story("u1") == [("running", True)]
    assert (await bus.js.stream_info("PODS")).state.last_seq == before + 2


async def test_facts_of_another_node_are_left_alone(bus, pods, tmp_path):
    other = PodFact("u9", "n2", "keeper-9", "running", pods.start("u1").created_at)
    subject = subjects.PODS.subject(node="n2", uid="u9")
    await publish(bus, subject, msgspec.json.encode(other))
    async with podwatch(bus, pods, tmp_path):
        facts = Facts(bus)
        await facts.until(is_ready("u1"))
        assert facts.story("u9") == [("running", False)]


async def test_a_dead_uid_stays_dead_even_if_its_process_runs(bus, pods, tmp_path):
    pod = pods.start("u1")
    dead = PodFact("u1", "n1", "keeper-u1", "dead", pod.created_at, reason="told before")
    await publish(bus, subjects.PODS.subject(node="n1", uid="u1"), msgspec.json.encode(dead))
    async with podwatch(bus, pods, tmp_path):
        pods.start("u2")
        facts = Facts(bus)
        await facts.until(is_ready("u2"))
        assert facts.story("u1") == [("dead", False)]


async def test_a_pod_at_the_address_of_a_dead_one_is_another_pod(bus, pods, tmp_path):
    async with podwatch(bus, pods, tmp_path):
        port = pods.start("u1").port
        facts = Facts(bus)
        await facts.until(is_ready("u1"))
        pods.kill("u1")
        pods.processes["u1"].wait()
        pods.start("u2", port=port)
        await facts.until(is_ready("u2"))
        await facts.until(is_dead("u1"))


async def test_another_keeper_that_answers_at_a_pods_address_does_not_make_it_ready(
    bus, pods, tmp_path
):
    async with podwatch(bus, pods, tmp_path):
        port = pods.start("u2").port
        pods.describe("u1", os.getpid(), port=port)
        pods.start("u3")
        facts = Facts(bus)
        await facts.until(is_ready("u3"))
        await facts.until(is_ready("u2"))
        assert facts.story("u1") == [("running", False)]


async def test_what_happens_while_nats_is_away_is_told_when_it_is_back(
    bus, pods, tmp_path, nats_server, eventually
):
    async with podwatch(bus, pods, tmp_path) as node:
        pods.start("u1")
        facts = Facts(bus)
        await facts.until(is_ready("u1"))
        nats_server.kill()
        pods.kill("u1")
        pods.start("u2")
        await eventually(lambda: node.waiting > 0)
        nats_server.start()
        await facts.until(is_dead("u1"))
        await facts.until(is_ready("u2"))


async def test_a_stream_that_lost_its_facts_is_told_them_again(bus, pods, tmp_path, nats_server):
    async with podwatch(bus, pods, tmp_path):
        pods.start("u1")
        await Facts(bus).until(is_ready("u1"))
        nats_server.lose_data()
        async with connect(nats_server.settings, "other") as other:
            await ensure_streams(other.js)
        await Facts(bus).until(is_ready("u1"))


async def test_a_fact_that_someone_else_overwrote_is_put_right(bus, pods, tmp_path, eventually):
    async with podwatch(bus, pods, tmp_path) as node:
        pods.start("u1")
        facts = Facts(bus)
        fact = await facts.until(is_ready("u1"))
        wrong = msgspec.structs.replace(fact, ip="10.6.6.6", ready=False, capacity=99)
        subject = subjects.PODS.subject(node="n1", uid="u1")
        sequence = await publish(bus, subject, msgspec.json.encode(wrong))
        await eventually(lambda: node.told["u1"].sequence > sequence)
        right = node.told["u1"].fact
        assert (right.ip, right.ready, right.capacity) == (fact.ip, True, 8)


async def test_garbage_on_the_stream_is_ignored(bus, pods, tmp_path, eventually):
    await publish(bus, subjects.PODS.subject(node="n1", uid="u8"), b"garbage")
    async with podwatch(bus, pods, tmp_path) as node:
        pods.start("u1")
        await eventually(lambda: "u1" in node.told and node.told["u1"].fact.ready)


async def test_a_dead_pod_that_left_the_stream_is_forgotten(bus, pods, tmp_path, eventually):
    async with podwatch(bus, pods, tmp_path) as node:
        pods.start("u1")
        facts = Facts(bus)
        await facts.until(is_ready("u1"))
        pods.kill("u1")
        await facts.until(is_dead("u1"))
        await tombstone(bus, subjects.PODS.subject(node="n1", uid="u1"))
        await eventually(lambda: "u1" not in node.facts)


async def test_a_dead_fact_expires_and_a_living_one_does_not(bus, pods, tmp_path):
    async with podwatch(bus, pods, tmp_path):
        pods.start("u1")
        facts = Facts(bus)
        await facts.until(is_ready("u1"))
        subject = subjects.PODS.subject(node="n1", uid="u1")
        living = await bus.js.get_last_msg("PODS", subject)
        pods.kill("u1")
        await facts.until(is_dead("u1"))
        dead = await bus.js.get_last_msg("PODS", subject)
    assert "Nats-TTL" not in (living.headers or {})
    assert (dead.headers or {})["Nats-TTL"] == "600s"


async def test_the_life_of_a_pod_is_on_the_event_log(bus, pods, tmp_path):
    async with podwatch(bus, pods, tmp_path):
        pods.start("u1")
        facts = Facts(bus)
        await facts.until(is_ready("u1"))
        pods.kill("u1")
        await facts.until(is_dead("u1"))
    events = await bus.js.subscribe("wasmfn.events.>", stream="EVENTS", ordered_consumer=True)
    told = [
        msgspec.json.decode((await events.next_msg(timeout=30)).data, type=Event) for _ in range(3)
    ]
    assert [event.what for event in told] == ["started", "ready", "dead"]
    assert {(event.namespace, event.kind, event.name) for event in told} == {
        ("default", "pod", "keeper-u1")
    }
    assert told[1].duration_ms is not None
    assert ENDED in told[2].message


async def test_log_lines_of_a_pod_are_carried_until_its_end(bus, pods, tmp_path):
    async with podwatch(bus, pods, tmp_path):
        pods.start("u1")
        with pods.log("u1").open("ab") as log:
            log.write(
                b'{"time":"2026-01-01T00:00:00Z","namespace":"default","function":"sort",'
                b'"instance":"i1","stream":"stderr","text":"hello"}\n'
            )
        lines = await bus.js.subscribe("wasmfn.logs.default.sort", stream="LOGS")
        assert b'"hello"' in (await lines.next_msg(timeout=30)).data
