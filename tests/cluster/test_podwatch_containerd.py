"""The pod source `containerd` against a real containerd 1.7."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from schemas.pods import CONTROL_PORT, LABEL_NAMESPACE, LABEL_ROLE
from services.podwatch.sources import PodGone, PodSeen, Sighting, Snapshot
from services.podwatch.sources import runtime as runtimes
from services.podwatch.sources.containerd import ContainerdSource
from tests.cluster import lab
from tests.cluster.lab import containerd as daemon
from tests.cluster.sandboxes import (
    Pod,
    Sandboxes,
    frozen_containerd,
    one_address,
    process_of,
    without_kubelet,
)

pytestmark = pytest.mark.cluster

SLEEP = ["sleep", "1000"]
KILLED = "its keeper ended with exit code 137"


class Watching:
    """A source that is followed; what it tells of pods that others made is left out."""

    def __init__(self, pods: Sandboxes, rescan_s: float = 3600) -> None:
        self._pods = pods
        # No rescan within a test: what is told is told by events, or after a reconnect.
        sockets = ["/nowhere", str(lab.CONTAINERD_SOCKET_FROM_OUTSIDE)]
        source = ContainerdSource(sockets, rescan_s)
        self._sightings = source.follow()

    async def next(self) -> Sighting:
        async with asyncio.timeout(60):
            return await anext(self._sightings)

    async def snapshot(self) -> set[str]:
        while not isinstance(sighting := await self.next(), Snapshot):
            pass
        return {pod.uid for pod in sighting.pods} & self._pods.uids

    async def of(self, pod: Pod) -> PodSeen | PodGone:
        """Return what is told next of one pod."""
        while isinstance(sighting := await self.next(), Snapshot) or sighting.uid != pod.uid:
            pass
        return sighting

    async def close(self) -> None:
        await self._sightings.aclose()


def uids(told: list[Sighting]) -> set[str]:
    seen = [pod for s in told if isinstance(s, Snapshot) for pod in s.pods]
    return {s.uid for s in (*told, *seen) if isinstance(s, PodSeen)}


@pytest.fixture(scope="module")
def node(containerd) -> Iterator[None]:
    with without_kubelet():
        yield


@pytest.fixture
async def pods(node, tmp_path: Path) -> AsyncIterator[Sandboxes]:
    pods = Sandboxes(tmp_path)
    yield pods
    await pods.close()


@pytest.fixture(params=["containerd events", "CRI events"])
async def watching(pods, request, monkeypatch) -> AsyncIterator[Watching]:
    """A source that has told its first snapshot, fed by each of the two kinds of events."""
    monkeypatch.setattr(runtimes, "tells_everyone", lambda *_: request.param == "CRI events")
    watching = Watching(pods)
    await watching.snapshot()
    yield watching
    await watching.close()


@pytest.fixture
async def watching_events(pods) -> AsyncIterator[Watching]:
    """A source as it is; in 1.7 it follows containerd's own events."""
    watching = Watching(pods)
    await watching.snapshot()
    yield watching
    await watching.close()


async def test_a_keeper_is_told_with_its_address_when_its_container_starts(pods, watching):
    pod = await pods.keeper(SLEEP)
    seen = await watching.of(pod)
    assert isinstance(seen, PodSeen)
    assert seen.ip.startswith("10.42.0.")
    assert (seen.name, seen.port) == (pod.config.metadata.name, CONTROL_PORT)
    assert seen.labels == {LABEL_ROLE: "keeper", LABEL_NAMESPACE: "default"}
    assert (seen.log, seen.log_format) == (str(pod.log), "cri")
    assert seen.started_at is not None


async def test_the_kill_of_a_keeper_is_told(pods, watching):
    pod = await pods.keeper(SLEEP)
    assert isinstance(await watching.of(pod), PodSeen)
    await pods.kill(pod.container)
    assert await watching.of(pod) == PodGone(pod.uid, KILLED)


async def test_a_pod_that_dies_within_milliseconds_is_told_and_told_gone(pods, watching):
    pod = await pods.keeper(["false"])
    seen, gone = await watching.of(pod), await watching.of(pod)
    assert isinstance(seen, PodSeen)
    assert gone == PodGone(pod.uid, "its keeper ended with exit code 1")


async def test_the_removal_of_a_whole_pod_is_told(pods, watching):
    pod = await pods.keeper(SLEEP)
    assert isinstance(await watching.of(pod), PodSeen)
    await pods.remove(pod)
    assert isinstance(await watching.of(pod), PodGone)


async def test_a_pod_without_its_sandbox_is_gone(pods, watching):
    pod = await pods.keeper(SLEEP)
    assert isinstance(await watching.of(pod), PodSeen)
    daemon.ctr("tasks", "kill", "--signal", "SIGKILL", pod.sandbox)
    assert await watching.of(pod) == PodGone(pod.uid, "its sandbox ended")


async def test_pods_of_others_and_containers_beside_the_keeper_are_not_told(pods, watching_events):
    foreign = await pods.sandbox(role="")
    await pods.start(foreign, SLEEP)
    pod = await pods.sandbox()
    beside = await pods.start(pod, SLEEP, name="beside")
    await pods.kill(beside)
    await pods.start(pod, SLEEP)
    told = [await watching_events.next()]
    while pod.uid not in uids(told):
        told.append(await watching_events.next())
    assert uids(told) & pods.uids == {pod.uid}


async def test_what_runs_already_is_in_the_first_snapshot_and_what_ended_is_not(pods):
    runs, ended = await pods.keeper(SLEEP), await pods.keeper(["false"])
    await pods.ended(ended)
    watching = Watching(pods)
    told = [await watching.next()]
    while not isinstance(told[-1], Snapshot):
        told.append(await watching.next())
    await watching.close()
    assert {pod.uid for pod in told[-1].pods} & pods.uids == {runs.uid}
    of_ended = [s for s in told[:-1] if s.uid == ended.uid]
    assert [type(s) for s in of_ended] == [PodSeen, PodGone]


async def test_pods_outlive_a_restart_of_containerd_and_new_ones_are_told_after_it(
    pods, watching_events
):
    before = await pods.keeper(SLEEP)
    first = await watching_events.of(before)
    daemon.restart()
    assert await watching_events.snapshot() == {before.uid}
    after = await pods.keeper(SLEEP)
    assert isinstance(await watching_events.of(after), PodSeen)
    await pods.kill(before.container)
    assert await watching_events.of(before) == PodGone(before.uid, KILLED)
    assert isinstance(first, PodSeen)


async def test_a_pod_that_dies_while_containerd_is_away_is_told_gone(pods, watching_events):
    dies, lives = await pods.keeper(SLEEP), await pods.keeper(SLEEP)
    await watching_events.of(lives)
    pid = process_of(dies)
    daemon.kill()
    lab.run("kill", "-9", pid)
    daemon.start()
    assert isinstance(await watching_events.of(dies), PodGone)
    assert await watching_events.snapshot() == {lives.uid}


async def test_a_containerd_that_does_not_answer_makes_nothing_gone(pods, monkeypatch):
    monkeypatch.setattr(runtimes, "CALL_S", 0.2)
    lives = await pods.keeper(SLEEP)
    watching = Watching(pods, rescan_s=0.1)
    assert await watching.snapshot() == {lives.uid}
    with frozen_containerd():
        telling = asyncio.ensure_future(watching.next())
        # Long enough for a list, and connections after it, to be given up.
        _, pending = await asyncio.wait({telling}, timeout=1.5)
    assert pending
    assert isinstance(await telling, Snapshot)
    assert await watching.snapshot() == {lives.uid}
    await watching.close()


async def test_a_pod_that_starts_while_the_source_does_is_told(pods):
    sandboxes = [await pods.sandbox() for _ in range(6)]
    for pod in sandboxes:
        watching = Watching(pods)
        first = asyncio.ensure_future(watching.next())
        await pods.start(pod, SLEEP)
        told = [await first]
        while pod.uid not in uids(told):
            told.append(await watching.next())
        await watching.close()


async def test_an_address_that_is_given_to_another_pod_is_told_with_the_other_uid(
    pods, watching_events
):
    async with one_address(pods) as address:
        first = await pods.keeper(SLEEP)
        before = await watching_events.of(first)
        await pods.remove(first)
        assert isinstance(await watching_events.of(first), PodGone)
        second = await pods.keeper(SLEEP)
        after = await watching_events.of(second)
    assert isinstance(before, PodSeen)
    assert isinstance(after, PodSeen)
    assert (before.ip, after.ip) == (address, address)
    assert after.uid != before.uid
