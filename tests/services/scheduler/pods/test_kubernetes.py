"""The runtime against a stand-in that fails in ways which a real API server cannot be told to."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from schemas.pods import KEEPER_CONTAINER, LABEL_NAMESPACE, LABEL_ROLE
from services.scheduler.pods import Pod, PodError
from services.scheduler.pods import kubernetes as module
from services.scheduler.pods.apiserver import connect
from services.scheduler.pods.kubernetes import KubernetesRuntime
from services.scheduler.pods.manifest import KeeperPod
from tests.services.scheduler.stand_in_apiserver import (
    NAMESPACE,
    Answer,
    StandIn,
    break_off,
    half_a_list,
    pod_list,
    refuse,
    say,
)

LABELS = {LABEL_ROLE: "keeper", LABEL_NAMESPACE: "default"}


@pytest_asyncio.fixture
async def server() -> AsyncIterator[StandIn]:
    server = StandIn()
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture
async def runtime(server: StandIn, tmp_path: Path) -> AsyncIterator[KubernetesRuntime]:
    async with connect(NAMESPACE, server.write_kubeconfig(tmp_path / "config")) as api:
        yield KubernetesRuntime(api, "wasmfn/keeper:1", 64, KeeperPod())


class Ends:
    """What a runtime says to have ended, while it is listened to."""

    def __init__(self, runtime: KubernetesRuntime) -> None:
        self.uids: list[str] = []
        self._came = asyncio.Condition()
        self._task = asyncio.create_task(self._listen(runtime))

    async def _listen(self, runtime: KubernetesRuntime) -> None:
        async for uid in runtime.ended():
            async with self._came:
                self.uids.append(uid)
                self._came.notify_all()

    async def until(self, *uids: str) -> None:
        async with asyncio.timeout(10), self._came:
            await self._came.wait_for(lambda: set(uids) <= set(self.uids))

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


@pytest_asyncio.fixture
async def ends(runtime: KubernetesRuntime, server: StandIn) -> AsyncIterator[Ends]:
    ends = Ends(runtime)
    await server.watched()
    yield ends
    await ends.close()


async def started(runtime: KubernetesRuntime) -> Pod:
    return await runtime.start(LABELS)


async def test_what_was_started_is_listed_also_by_the_next_scheduler(
    runtime: KubernetesRuntime, server: StandIn, tmp_path: Path
) -> None:
    assert await runtime.list() == []
    pod = await started(runtime)
    assert pod.labels.items() >= LABELS.items()
    assert await runtime.list() == [pod]
    async with connect(NAMESPACE, server.write_kubeconfig(tmp_path / "config")) as api:
        assert await KubernetesRuntime(api, "wasmfn/keeper:1", 64, KeeperPod()).list() == [pod]


async def test_what_was_made_from_another_image_or_with_other_settings_is_outdated(
    runtime: KubernetesRuntime, server: StandIn, tmp_path: Path
) -> None:
    assert not (await started(runtime)).outdated
    async with connect(NAMESPACE, server.write_kubeconfig(tmp_path / "config")) as api:
        for image, capacity, settings in (
            ("wasmfn/keeper:2", 64, KeeperPod()),
            ("wasmfn/keeper:1", 65, KeeperPod()),
            ("wasmfn/keeper:1", 64, KeeperPod(cpu_limit="1")),
        ):
            (pod,) = await KubernetesRuntime(api, image, capacity, settings).list()
            assert pod.outdated


async def test_what_a_pod_waits_for_is_said_until_it_runs(
    runtime: KubernetesRuntime, server: StandIn
) -> None:
    pod = await started(runtime)
    assert "image" in pod.waits
    condition = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}
    await server.set_status(pod.name, phase="Pending", conditions=[condition])
    (waiting,) = await runtime.list()
    assert waiting.waits == "no node takes it: 0/1 nodes are available"
    await server.set_status(pod.name, phase="Running")
    (running,) = await runtime.list()
    assert running.waits == ""


async def test_keepers_belong_to_their_account_as_it_is_now_and_to_none_without_it(
    runtime: KubernetesRuntime, server: StandIn
) -> None:
    async def owner() -> list[str]:
        await runtime.list()
        made = server.pods[(await started(runtime)).name]["metadata"]
        return [one["uid"] for one in made.get("ownerReferences", ())]

    assert await owner() == []
    server.accounts["keeper"] = "account-1"
    assert await owner() == ["account-1"]
    server.accounts["keeper"] = "account-2"
    assert await owner() == ["account-2"]
    del server.accounts["keeper"]
    assert await owner() == []


async def test_names_are_never_used_again(runtime: KubernetesRuntime) -> None:
    assert len({(await started(runtime)).name for _ in range(5)}) == 5
    long = await runtime.start({**LABELS, LABEL_NAMESPACE: "n" * 63})
    assert len(long.name) <= 63


@pytest.mark.parametrize(
    "answer",
    [
        refuse(500),
        refuse(403),
        refuse(410),
        break_off,
        half_a_list,
        say({}),
        say({"kind": "Status", "code": 200}),
        say(pod_list([], 5, more="the rest")),
        say({"kind": "PodList", "metadata": {"resourceVersion": "1"}}),
    ],
)
async def test_a_list_that_fails_is_an_error_and_never_an_empty_list(
    runtime: KubernetesRuntime, server: StandIn, answer: Answer
) -> None:
    pod = await started(runtime)
    server.answers = [answer, answer]  # A connection that breaks is tried once more by aiohttp.
    with pytest.raises(PodError):
        await runtime.list()
    server.answers.clear()
    assert await runtime.list() == [pod]
    assert server.deletes == []


async def test_a_server_that_is_not_there_is_an_error(
    runtime: KubernetesRuntime, server: StandIn
) -> None:
    await server.stop()
    with pytest.raises(PodError):
        await runtime.list()


@pytest.mark.parametrize("answer", [break_off, refuse(503), refuse(429)])
async def test_a_pod_whose_creation_was_not_answered_is_asked_for_again_and_made_once(
    runtime: KubernetesRuntime, server: StandIn, answer: Answer
) -> None:
    server.applies = [answer]
    pod = await started(runtime)
    assert [p["metadata"]["uid"] for p in server.pods.values()] == [pod.uid]


async def test_a_pod_that_is_refused_is_an_error_at_once_in_the_servers_words(
    runtime: KubernetesRuntime, server: StandIn
) -> None:
    server.applies = [refuse(403, "exceeded quota: pods=10")]
    with pytest.raises(PodError, match="exceeded quota: pods=10"):
        await started(runtime)
    assert server.applies == []


async def test_a_pod_that_ends_is_told_once(
    runtime: KubernetesRuntime, server: StandIn, ends: Ends
) -> None:
    stays, dies, goes = [await started(runtime) for _ in range(3)]
    died = {"name": KEEPER_CONTAINER, "state": {"terminated": {"reason": "OOMKilled"}}}
    await server.set_status(dies.name, phase="Running", containerStatuses=[died])
    await server.set_status(dies.name, phase="Failed", containerStatuses=[died])
    await server.remove(goes.name)
    await ends.until(dies.uid, goes.uid)
    assert sorted(ends.uids) == sorted([dies.uid, goes.uid])
    assert server.lists == 1  # It was the watch that told.
    assert await runtime.list() == [stays]


async def test_a_pod_that_others_tell_to_end_is_given_up_at_once(
    runtime: KubernetesRuntime, server: StandIn, ends: Ends
) -> None:
    pod = await started(runtime)
    await server.tell_to_end(pod.name)
    await ends.until(pod.uid)
    assert await runtime.list() == []


async def test_what_ended_while_the_watch_was_broken_is_told(
    runtime: KubernetesRuntime, server: StandIn, ends: Ends
) -> None:
    stays, goes = [await started(runtime) for _ in range(2)]
    await server.set_status(goes.name, phase="Running")
    server.answers = [refuse(500), refuse(503), half_a_list]
    server.cut()
    await server.remove(goes.name)
    await ends.until(goes.uid)
    assert server.answers == []
    assert stays.uid not in ends.uids


async def test_a_pod_that_is_started_while_all_are_being_listed_is_not_taken_for_gone(
    runtime: KubernetesRuntime, server: StandIn, ends: Ends
) -> None:
    server.answering.clear()
    server.cut()
    await server.listed(2)
    pod = await started(runtime)
    server.answering.set()
    await server.watched(2)
    assert ends.uids == []
    await server.remove(pod.name)
    await ends.until(pod.uid)


async def test_a_version_that_was_forgotten_has_everything_listed_again(
    runtime: KubernetesRuntime, server: StandIn, ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    stays, goes = [await started(runtime) for _ in range(2)]
    lists = server.lists
    server.cut()
    await server.remove(goes.name)
    server.answers = [say(pod_list(list(server.pods.values()), 0))]  # A version from before all.
    server.forget()
    await ends.until(goes.uid)
    await server.watched(3)
    assert server.lists > lists + 1
    assert ends.uids == [goes.uid]
    assert "too old" not in caplog.text  # It is nothing to worry about.
    await server.remove(stays.name)
    await ends.until(stays.uid)


async def test_a_server_that_restarts_is_followed_again(
    runtime: KubernetesRuntime, server: StandIn, ends: Ends
) -> None:
    pod = await started(runtime)
    await server.stop()
    await server.start()
    await server.watched(2)
    assert ends.uids == []
    await server.remove(pod.name)
    await ends.until(pod.uid)


async def test_a_pod_is_stopped_with_the_patience_asked_for(
    runtime: KubernetesRuntime, server: StandIn
) -> None:
    pod = await started(runtime)
    await runtime.stop(pod.uid, 34.2)
    (options,) = server.deletes
    assert (options["gracePeriodSeconds"], options["preconditions"]) == (35, {"uid": pod.uid})
    assert await runtime.list() == []


async def test_a_pod_whose_node_is_lost_is_deleted_by_force(
    runtime: KubernetesRuntime, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REPORT_S", 0.1)
    server.nodes_answer = False
    pod = await started(runtime)
    await runtime.stop(pod.uid, 0)
    assert [options["gracePeriodSeconds"] for options in server.deletes] == [1, 0]
    assert server.pods == {}


async def test_a_pod_that_may_still_run_is_an_error(
    runtime: KubernetesRuntime, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_START_S", 0.1)
    pod = await started(runtime)
    await server.stop()
    with pytest.raises(PodError, match="may still run"):
        await runtime.stop(pod.uid, 0)


async def test_an_unknown_pod_has_ended(runtime: KubernetesRuntime, server: StandIn) -> None:
    await runtime.stop("never-heard-of", 0)
    assert server.deletes == []


async def test_a_pod_that_ended_while_it_was_listed_does_not_come_back(
    runtime: KubernetesRuntime, server: StandIn, ends: Ends
) -> None:
    pod = await started(runtime)
    before = pod_list(list(server.pods.values()), 1)
    await server.remove(pod.name)
    await ends.until(pod.uid)
    server.answers = [say(before)]
    assert await runtime.list() == []


async def test_another_pod_of_the_same_name_is_left_alone(
    runtime: KubernetesRuntime, server: StandIn
) -> None:
    pod = await started(runtime)
    server.pods[pod.name]["metadata"]["uid"] = "somebody-elses"
    await runtime.stop(pod.uid, 0)
    assert pod.name in server.pods


async def test_a_pod_whose_keeper_has_ended_stays_for_its_log_and_is_then_removed(
    runtime: KubernetesRuntime, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = await started(runtime)
    await server.set_status(pod.name, phase="Failed")
    assert await runtime.list() == []
    assert pod.name in server.pods
    monkeypatch.setattr(module, "FORGET_S", 0.0)
    assert await runtime.list() == []
    assert server.pods == {}


async def test_why_a_pod_does_not_start_is_logged_once(
    runtime: KubernetesRuntime, server: StandIn, ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    pod = await started(runtime)
    waiting = {"reason": "ErrImagePull", "message": "no such image"}
    state = {"name": KEEPER_CONTAINER, "state": {"waiting": waiting}}
    for _ in range(3):
        await server.set_status(pod.name, phase="Pending", containerStatuses=[state])
    await server.remove(pod.name)
    await ends.until(pod.uid)
    told = [record.message for record in caplog.records if pod.name in record.message]
    assert told == [f"the keeper {pod.name} does not start: ErrImagePull: no such image"]


async def test_without_any_way_to_the_api_server_the_reason_is_told(tmp_path: Path) -> None:
    with pytest.raises(PodError, match="cannot tell how to reach"):
        async with connect(NAMESPACE, str(tmp_path / "nothing")):
            pass
