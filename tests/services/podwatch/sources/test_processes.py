import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator

import pytest

from services.podwatch.sources import PodGone, PodSeen, Sighting, Snapshot
from services.podwatch.sources.processes import ENDED, REMOVED, ProcessSource


class Watching:
    """A source that is followed, one sighting at a time."""

    def __init__(self, source: ProcessSource) -> None:
        self._sightings = source.follow()

    async def next(self) -> Sighting:
        async with asyncio.timeout(30):
            return await anext(self._sightings)

    async def next_change(self) -> PodSeen | PodGone:
        while isinstance(sighting := await self.next(), Snapshot):
            pass
        return sighting

    async def close(self) -> None:
        await self._sightings.aclose()


def grandchild() -> int:
    """Start a process that is not our child, and return its pid."""
    shell = ["sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"]
    return int(subprocess.run(shell, capture_output=True, check=True).stdout)


@pytest.fixture
async def watching(pods) -> AsyncIterator[Watching]:
    watching = Watching(ProcessSource(pods.directory, rescan_s=60))
    yield watching
    await watching.close()


async def test_it_begins_with_everything_that_runs(pods, watching):
    first, second = pods.start("u1"), pods.start("u2")
    seen = [await watching.next(), await watching.next()]
    snapshot = await watching.next()
    assert isinstance(snapshot, Snapshot)
    assert {pod.uid for pod in snapshot.pods} == {first.uid, second.uid}
    assert {pod.port for pod in seen if isinstance(pod, PodSeen)} == {first.port, second.port}


async def test_a_new_pod_is_seen_without_a_rescan(pods, watching):
    assert await watching.next() == Snapshot(())
    pod = pods.start("u1")
    sighting = await watching.next()
    assert isinstance(sighting, PodSeen)
    assert (sighting.uid, sighting.port, sighting.started_at) == ("u1", pod.port, pod.created_at)
    assert sighting.log == str(pods.log("u1"))


async def test_a_process_killed_with_9_is_told_before_anyone_waits_for_it(pods, watching):
    pods.start("u1")
    assert isinstance(await watching.next(), PodSeen)
    await watching.next()
    pods.kill("u1")
    assert await watching.next() == PodGone("u1", ENDED)


async def test_the_death_of_a_process_that_is_not_our_child_is_told(pods, watching):
    pid = grandchild()
    pods.describe("u1", pid)
    assert isinstance(await watching.next(), PodSeen)
    await watching.next()
    os.kill(pid, 9)
    assert await watching.next() == PodGone("u1", ENDED)


async def test_a_pod_whose_process_ended_before_it_was_seen_is_told_gone_once(pods, watching):
    pods.start("u1")
    pods.kill("u1")
    pods.processes["u1"].wait()
    assert isinstance(await watching.next(), PodSeen)
    assert await watching.next() == PodGone("u1", ENDED)
    assert await watching.next() == Snapshot(())
    pods.start("u2")
    assert isinstance(await watching.next(), PodSeen)


async def test_a_rescan_does_not_tell_again_of_what_is_gone(pods):
    watching = Watching(ProcessSource(pods.directory, rescan_s=0.01))
    pods.describe("u1", os.getpid(), ticks=1)
    told = [await watching.next() for _ in range(10)]
    assert told[1] == PodGone("u1", ENDED)
    assert told[2:] == [Snapshot(())] * 8
    await watching.close()


async def test_another_process_with_the_same_pid_is_not_the_pod(pods, watching):
    pods.describe("u1", os.getpid(), ticks=1)
    assert isinstance(await watching.next(), PodSeen)
    assert await watching.next() == PodGone("u1", ENDED)


async def test_a_removed_directory_is_a_pod_that_is_gone(pods, watching):
    pods.start("u1")
    assert isinstance(await watching.next(), PodSeen)
    await watching.next()
    shutil.rmtree(pods.directory / "u1")
    assert await watching.next() == PodGone("u1", REMOVED)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"{", b"[]", b'{"uid":"u1"}', b"x" * 100_000],
    ids=["empty", "no-utf8", "cut", "no-pod", "incomplete", "large"],
)
async def test_a_garbage_file_is_no_pod_and_hurts_no_other(pods, watching, content, caplog):
    (pods.directory / "u1").mkdir()
    pods.write("u1", content)
    (pods.directory / "stray").write_bytes(b"a file")
    assert await watching.next() == Snapshot(())
    pods.start("u2")
    sighting = await watching.next()
    assert isinstance(sighting, PodSeen)
    assert sighting.uid == "u2"
    assert sum("u1" in record.message for record in caplog.records) == 1


async def test_a_file_that_speaks_of_another_pod_is_garbage(pods, watching):
    pods.describe("u1", os.getpid())
    (pods.directory / "u1").rename(pods.directory / "u2")
    assert await watching.next() == Snapshot(())


async def test_a_pod_that_runs_survives_its_file_turning_to_garbage(pods, watching):
    pods.start("u1")
    assert isinstance(await watching.next(), PodSeen)
    await watching.next()
    pods.write("u1", b"garbage")
    pods.start("u2")
    sighting = await watching.next()
    assert isinstance(sighting, PodSeen)
    assert sighting.uid == "u2"
    pods.kill("u1")
    assert await watching.next() == PodGone("u1", ENDED)


async def test_a_rescan_finds_what_was_not_told(pods):
    watching = Watching(ProcessSource(pods.directory, rescan_s=0.01))
    pods.start("u1")
    for _ in range(20):
        sighting = await watching.next()
    assert isinstance(sighting, Snapshot)
    assert [pod.uid for pod in sighting.pods] == ["u1"]
    await watching.close()


async def test_a_directory_that_comes_later_or_again_is_followed(pods, watching):
    shutil.rmtree(pods.directory)
    waiting = asyncio.create_task(watching.next())
    await asyncio.sleep(0)  # lets it begin
    pods.directory.mkdir()
    assert await waiting == Snapshot(())
    shutil.rmtree(pods.directory)
    pods.directory.mkdir()
    assert await watching.next() == Snapshot(())
    pods.start("u1")
    assert isinstance(await watching.next(), PodSeen)


async def test_every_one_of_many_pods_that_come_and_go_is_told(pods, watching):
    assert await watching.next() == Snapshot(())
    uids = {f"u{number}" for number in range(30)}
    for uid in uids:
        pods.start(uid)
        pods.kill(uid)
    gone = set()
    while gone != uids:
        change = await watching.next_change()
        if isinstance(change, PodGone):
            assert change.uid not in gone
            gone.add(change.uid)
