"""Keepers as pods of a real Kubernetes, made with no more than the scheduler's own rights."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from schemas.control import KeeperHealth
from schemas.pods import CONTROL_PORT, LABEL_DEDICATED, LABEL_NAMESPACE, LABEL_ROLE
from services.kubernetes.api import ApiError
from services.scheduler.pods import Pod, PodError
from services.scheduler.pods.apiserver import connect
from services.scheduler.pods.kubernetes import KubernetesRuntime
from services.scheduler.pods.manifest import KeeperPod
from tests.cluster import keepers, lab
from tests.cluster.keepers import NAMESPACE
from tests.cluster.lab import containerd, kubernetes

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

LABELS = {LABEL_ROLE: "keeper", LABEL_NAMESPACE: "default"}


@pytest.fixture(scope="module")
def keeper_image(cluster: None) -> str:
    return keepers.image()


@pytest.fixture(scope="module")
def kubeconfig(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    file = keepers.write_kubeconfig(tmp_path_factory.mktemp("kubeconfig") / "config")
    public = Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex()
    keepers.put_keys("wasmfn-keys", public, public)
    yield file
    keepers.remove_all()


@pytest.fixture(autouse=True)
def on_the_node(cluster: None) -> Iterator[None]:
    with lab.network():
        yield


@pytest_asyncio.fixture
async def runtime(kubeconfig: str, keeper_image: str) -> AsyncIterator[KubernetesRuntime]:
    async with connect(NAMESPACE, kubeconfig) as api:
        runtime = KubernetesRuntime(api, keeper_image, 64, KeeperPod())
        yield runtime
        for pod in await runtime.list():
            await runtime.stop(pod.uid, 1)


async def uids(runtime: KubernetesRuntime) -> set[str]:
    return {pod.uid for pod in await runtime.list()}


async def kubectl(*words: str) -> str:
    return await asyncio.to_thread(lab.kubectl, *words, "-n", NAMESPACE)


async def described(pod: Pod) -> dict[str, Any]:
    return dict(json.loads(await kubectl("get", "pod", pod.name, "-o", "json")))


async def health(pod: Pod) -> KeeperHealth:
    """What the keeper says of itself, as soon as it answers."""
    async with asyncio.timeout(60), httpx.AsyncClient(trust_env=False) as client:
        while True:
            ip = (await described(pod))["status"].get("podIP", "")
            with contextlib.suppress(httpx.TransportError):
                if ip:
                    answer = await client.get(f"http://{ip}:{CONTROL_PORT}/healthz", timeout=2)
                    return msgspec.json.decode(answer.content, type=KeeperHealth)
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def ends(runtime: KubernetesRuntime) -> AsyncIterator[AsyncIterator[str]]:
    """Yield what is told to end, already being watched for."""
    queue: asyncio.Queue[str] = asyncio.Queue()

    async def listen() -> None:
        async for uid in runtime.ended():
            queue.put_nowait(uid)

    async def told() -> AsyncIterator[str]:
        while True:
            async with asyncio.timeout(90):
                yield await queue.get()

    task = asyncio.create_task(listen())
    yield told()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_keeper_starts_with_the_pods_uid_as_its_id_and_nothing_it_could_misuse(
    runtime: KubernetesRuntime,
) -> None:
    pod = await runtime.start(LABELS)
    assert await uids(runtime) == {pod.uid}
    said = await health(pod)
    assert (said.keeper, said.capacity) == (pod.uid, 64)
    seen = await described(pod)
    assert seen["status"]["qosClass"] == "Burstable"
    mounts = [m["mountPath"] for m in seen["spec"]["containers"][0]["volumeMounts"]]
    assert sorted(mounts) == ["/cache", "/etc/wasmfn/keys"]  # No token among them.


async def test_the_next_scheduler_adopts_what_runs(
    runtime: KubernetesRuntime, kubeconfig: str
) -> None:
    alone = {**LABELS, LABEL_DEDICATED: "sort"}
    pods = [await runtime.start(LABELS), await runtime.start(alone)]
    async with connect(NAMESPACE, kubeconfig) as api:
        other = KubernetesRuntime(api, "unused", 1, KeeperPod())
        adopted = await other.list()
        dedicated = {p.uid: p.labels.get(LABEL_DEDICATED) for p in adopted}
        assert dedicated == {pods[0].uid: None, pods[1].uid: "sort"}
        await other.stop(pods[0].uid, 1)
        assert await uids(runtime) == {pods[1].uid}


async def test_a_keeper_that_is_stopped_ends_in_order_and_soon(runtime: KubernetesRuntime) -> None:
    pod = await runtime.start(LABELS)
    await health(pod)
    async with ends(runtime) as told:
        begun = time.monotonic()
        await runtime.stop(pod.uid, 20)
        assert time.monotonic() - begun < 15
        assert await anext(told) == pod.uid
    assert await runtime.list() == []


async def test_a_keeper_that_is_killed_is_told_and_is_not_started_again(
    runtime: KubernetesRuntime,
) -> None:
    pod = await runtime.start(LABELS)
    await health(pod)
    container = (await described(pod))["status"]["containerStatuses"][0]["containerID"]
    async with ends(runtime) as told:
        await asyncio.to_thread(
            containerd.ctr, "task", "kill", "--signal", "9", container.removeprefix("containerd://")
        )
        assert await anext(told) == pod.uid
    assert await runtime.list() == []
    assert (await described(pod))["status"]["phase"] == "Failed"


async def test_a_keeper_on_a_node_that_is_drained_is_given_up_while_it_still_runs(
    runtime: KubernetesRuntime,
) -> None:
    pod = await runtime.start(LABELS)
    await health(pod)
    async with ends(runtime) as told:
        await kubectl("delete", "pod", pod.name, "--wait=false")
        assert await anext(told) == pod.uid
    assert await runtime.list() == []


async def test_a_restart_of_the_api_server_ends_nothing_and_hides_nothing(
    runtime: KubernetesRuntime,
) -> None:
    stays, goes = [await runtime.start(LABELS) for _ in range(2)]
    async with ends(runtime) as told:
        await asyncio.to_thread(kubernetes.stop, "kube-apiserver")
        with pytest.raises(PodError):
            await runtime.list()
        await asyncio.to_thread(kubernetes.start_apiserver)
        assert await uids(runtime) == {stays.uid, goes.uid}
        await kubectl("delete", "pod", goes.name, "--wait=false")
        assert await anext(told) == goes.uid
    assert await uids(runtime) == {stays.uid}


async def test_a_start_that_meets_a_dead_api_server_waits_for_the_next_one(
    runtime: KubernetesRuntime,
) -> None:
    await asyncio.to_thread(kubernetes.stop, "kube-apiserver")
    starting = asyncio.create_task(runtime.start(LABELS))
    await asyncio.to_thread(kubernetes.start_apiserver)
    try:
        pod = await starting
    except PodError:
        # The machine took longer than one start tries; nothing was made then.
        assert await runtime.list() == []
    else:
        assert await uids(runtime) == {pod.uid}


async def test_a_keeper_whose_node_does_not_answer_is_given_up_by_force(
    runtime: KubernetesRuntime,
) -> None:
    pod = await runtime.start(LABELS)
    await health(pod)
    await asyncio.to_thread(kubernetes.stop, "kubelet")
    try:
        await runtime.stop(pod.uid, 1)
        assert await runtime.list() == []
        assert pod.name not in await kubectl("get", "pods", "-o", "name")
    finally:
        await asyncio.to_thread(kubernetes.start_kubelet)


async def test_a_keeper_that_cannot_start_says_why(
    runtime: KubernetesRuntime, kubeconfig: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with connect(NAMESPACE, kubeconfig) as api:
        nowhere = KeeperPod(node_selector={"no-node": "has-it"})
        other = KubernetesRuntime(api, "unused", 1, nowhere)
        async with ends(other):
            pod = await other.start(LABELS)
            async with asyncio.timeout(60):
                while "no node takes it" not in caplog.text:  # noqa: ASYNC110 - of another's doing
                    await asyncio.sleep(0.05)
            await other.stop(pod.uid, 1)


async def test_a_watch_from_a_forgotten_version_ends_at_once_so_that_everything_is_listed(
    runtime: KubernetesRuntime, kubeconfig: str
) -> None:
    await runtime.start(LABELS)
    # What happened before its start is not in its cache: it answers 410 in the stream.
    await asyncio.to_thread(lab.restart_apiserver)
    async with connect(NAMESPACE, kubeconfig) as api, asyncio.timeout(60):
        assert [event async for event in api.watch("1")] == []


async def test_the_schedulers_account_can_do_nothing_else(kubeconfig: str) -> None:
    async with connect("kube-system", kubeconfig) as api:
        with pytest.raises(ApiError, match="forbidden"):
            await api.list()
    async with connect("wasmfn", kubeconfig) as api:
        with pytest.raises(ApiError, match="forbidden"):
            await api.list()
