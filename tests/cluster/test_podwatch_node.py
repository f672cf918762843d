"""What a podwatch tells the platform of pods in a real containerd: facts, readiness, logs."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from schemas import subjects
from schemas.events import LogLine
from schemas.pods import PodFact
from services.bus.connection import connect
from services.bus.events import event_log
from services.bus.streams import ensure_streams
from services.podwatch.logs import LogCarrier
from services.podwatch.node import Node
from services.podwatch.offsets import Offsets
from services.podwatch.sources.containerd import ContainerdSource
from tests.cluster import lab
from tests.cluster.lab import containerd as daemon
from tests.cluster.sandboxes import (
    Pod,
    Sandboxes,
    answering,
    forget_owner_of,
    one_address,
    process_of,
    without_kubelet,
)

pytestmark = pytest.mark.cluster

NODE = lab.NODE_ADDRESS
MORE = "/tmp/more"  # noqa: S108 - of a container


def is_ready(pod: Pod) -> Callable[[PodFact], bool]:
    return lambda fact: fact.uid == pod.uid and fact.ready


def printing(*lines: str) -> list[str]:
    """Return a command that writes these lines, and then what is put into /tmp/more."""
    prints = "; ".join(f"echo '{line}'" for line in lines)
    return ["sh", "-c", f"mkfifo {MORE}; {prints}; while true; do cat {MORE}; done"]


def log_line(text: str) -> str:
    return json.dumps(
        {"time": "2026-01-01T00:00:00Z", "namespace": "default", "function": "sort", "text": text}
    )


class Told:
    """What a stream says, in order."""

    def __init__(self, subscription, type_) -> None:
        self._subscription = subscription
        self._type = type_

    async def next(self):
        message = await self._subscription.next_msg(timeout=60)
        return msgspec.json.decode(message.data, type=self._type)

    async def of(self, uid: str) -> PodFact:
        """Return the next fact about this pod."""
        return await self.until(lambda fact: fact.uid == uid)

    async def until(self, holds: Callable[[PodFact], bool]) -> PodFact:
        while not holds(fact := await self.next()):
            pass
        return fact


@pytest.fixture(scope="module")
def node(containerd) -> Iterator[None]:
    with without_kubelet():
        yield


@pytest.fixture
def on_the_node(node) -> Iterator[None]:
    """Pods are reached from here, and the servers that start are on the node's network too."""
    with lab.network():
        yield


@pytest.fixture
async def bus(on_the_node, nats_server):
    async with connect(nats_server.settings, "test") as bus:
        await ensure_streams(bus.js)
        yield bus


@pytest.fixture
async def facts(bus) -> Told:
    subject = subjects.PODS.wildcard
    return Told(await bus.js.subscribe(subject, stream="PODS", ordered_consumer=True), PodFact)


@pytest.fixture
async def lines(bus) -> Told:
    subject = subjects.LOGS.wildcard
    return Told(await bus.js.subscribe(subject, stream="LOGS", ordered_consumer=True), LogLine)


@pytest.fixture
async def pods(on_the_node, tmp_path) -> AsyncIterator[Sandboxes]:
    pods = Sandboxes(tmp_path / "logs")
    yield pods
    await pods.close()


@contextlib.asynccontextmanager
async def podwatch(bus, state: Path) -> AsyncIterator[Node]:
    """Run what a podwatch process runs, until left."""
    async with event_log(bus) as events:
        offsets = Offsets(state / "offsets.json")
        logs = LogCarrier(bus, offsets)
        source = ContainerdSource([str(lab.CONTAINERD_SOCKET_FROM_OUTSIDE)])
        node = Node(NODE, bus, source, logs, events)
        parts = (node.run(), logs.run(), offsets.run())
        running = [asyncio.create_task(part) for part in parts]
        try:
            await node.complete.wait()
            yield node
        finally:
            for task in running:
                task.cancel()
            await asyncio.wait(running)


async def test_a_keeper_is_told_ready_when_it_answers_and_dead_when_it_was_killed(
    bus, facts, pods, tmp_path
):
    async with podwatch(bus, tmp_path):
        pod = await pods.keeper()
        started = await facts.of(pod.uid)
        assert (started.phase, started.ready) == ("running", False)
        ready = await facts.of(pod.uid)
        assert (ready.ready, ready.boot) == (True, f"boot of {pod.uid}")
        assert ready.ip.startswith("10.42.0.")
        await pods.kill(pod.container)
        dead = await facts.of(pod.uid)
        assert (dead.phase, dead.ready) == ("dead", False)
        assert dead.reason == "its keeper ended with exit code 137"


async def test_a_pod_that_dies_within_milliseconds_ends_as_a_dead_fact(bus, facts, pods, tmp_path):
    async with podwatch(bus, tmp_path):
        pod = await pods.keeper(["false"])
        while (fact := await facts.of(pod.uid)).phase != "dead":
            assert not fact.ready
        assert fact.reason == "its keeper ended with exit code 1"


async def test_the_next_owner_of_an_address_is_ready_as_itself_and_the_first_stays_dead(
    bus, facts, pods, tmp_path
):
    async with podwatch(bus, tmp_path) as node, one_address(pods) as address:
        first = await pods.keeper()
        await facts.until(is_ready(first))
        await pods.remove(first)
        forget_owner_of(address)
        second = await pods.keeper()
        assert (await facts.until(is_ready(second))).ip == address
        assert node.facts[first.uid].phase == "dead"


async def test_a_pod_is_not_ready_by_the_answers_of_another_keeper(bus, facts, pods, tmp_path):
    async with podwatch(bus, tmp_path):
        stranger = await pods.keeper(answering("somebody-else"))
        other = await pods.keeper()
        await facts.until(is_ready(other))
        await pods.kill(stranger.container)
        fact = await facts.of(stranger.uid)
        assert (fact.phase, fact.boot) == ("dead", "")


async def test_a_death_during_an_absence_of_containerd_and_podwatch_is_told_afterwards(
    bus, facts, pods, tmp_path
):
    async with podwatch(bus, tmp_path):
        pod = await pods.keeper()
        await facts.until(is_ready(pod))
    pid = process_of(pod)
    daemon.kill()
    lab.run("kill", "-9", pid)
    daemon.start()
    async with podwatch(bus, tmp_path):
        await facts.until(lambda fact: fact.uid == pod.uid and fact.phase == "dead")


async def test_lines_come_through_a_restart_and_a_rotation_once_and_in_order(
    bus, lines, pods, tmp_path
):
    async with podwatch(bus, tmp_path):
        pod = await pods.sandbox()
        await pods.start(pod, printing("not a line of a keeper", log_line("one")))
        assert (await lines.next()).text == "one"
        await pods.write(pod, MORE, log_line("two"))
        assert (await lines.next()).text == "two"
    await pods.write(pod, MORE, log_line("three"))
    await pods.rotate(pod)
    await pods.write(pod, MORE, log_line("four"))
    async with podwatch(bus, tmp_path):
        assert [(await lines.next()).text for _ in range(2)] == ["three", "four"]
        await pods.rotate(pod)
        # Longer than what a runtime puts into one line of the file.
        await pods.write(pod, MORE, log_line("five" * 2000), log_line("x" * 40_000))
        assert [len((await lines.next()).text) for _ in range(2)] == [8000, 8193]
        await pods.kill(pod.container)


async def test_the_process_follows_containerd_when_told_to(bus, facts, pods, nats_server, tmp_path):
    environment = {
        "PATH": os.environ["PATH"],
        "WASMFN_PODWATCH_NATS_URL": nats_server.url,
        "WASMFN_PODWATCH_SOURCE": "containerd",
        "WASMFN_PODWATCH_CONTAINERD_SOCKETS": json.dumps(
            ["/run/nowhere.sock", str(lab.CONTAINERD_SOCKET_FROM_OUTSIDE)]
        ),
        "WASMFN_PODWATCH_NODE": "node.with.dots",
        "WASMFN_PODWATCH_STATE_DIR": str(tmp_path / "state"),
    }
    command = [sys.executable, "-P", "-m", "services.podwatch"]
    process = subprocess.Popen(command, env=environment)  # noqa: ASYNC220 - it takes a moment
    try:
        pod = await pods.keeper()
        assert (await facts.until(is_ready(pod))).node == "node.with.dots"
    finally:
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 15) == 0
