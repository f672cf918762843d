"""The pod source `kubernetes` against a real API server and kubelet, and beside `containerd`."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from schemas.pods import CONTROL_PORT, KEEPER_CONTAINER, LABEL_NAMESPACE, LABEL_ROLE
from services.podwatch.sources import PodGone, PodSeen, PodSource, Sighting, Snapshot
from services.podwatch.sources import kubernetes as source
from services.podwatch.sources.containerd import ContainerdSource
from services.podwatch.sources.kubernetes import LOGS, KubernetesSource
from tests.cluster import lab
from tests.cluster.lab import kubernetes
from tests.cluster.lab.containerd import BUSYBOX_IMAGE
from tests.cluster.lab.node import NAME as NODE

pytestmark = pytest.mark.cluster

SLEEP = ["sleep", "1000"]
LABELS = {LABEL_ROLE: "keeper", LABEL_NAMESPACE: "default"}


class Keepers:
    """Makes pods as the scheduler does, in a namespace of their own."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    async def start(self, command: list[str], **labels: str) -> tuple[str, str]:
        """Make a pod; return its name and uid."""
        container = {"name": KEEPER_CONTAINER, "image": BUSYBOX_IMAGE, "command": command}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"keeper-{uuid.uuid4().hex[:8]}", "labels": {**LABELS, **labels}},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "containers": [container],
            },
        }
        made = json.loads(await self.kubectl("create", "-o", "json", "-f", "-", stdin=pod))
        return made["metadata"]["name"], made["metadata"]["uid"]

    async def delete(self, name: str) -> None:
        await self.kubectl("delete", "pod", name, "--wait=false")

    async def kubectl(self, *words: str, stdin: object = None) -> str:
        text = json.dumps(stdin).encode() if stdin else b""
        return await asyncio.to_thread(lab.kubectl, "-n", self.namespace, *words, stdin=text)


class Watching:
    """A source that is followed."""

    def __init__(self, source: PodSource) -> None:
        self._sightings = source.follow()

    async def next(self) -> Sighting:
        async with asyncio.timeout(60):
            return await anext(self._sightings)

    async def snapshot(self) -> set[str]:
        while not isinstance(sighting := await self.next(), Snapshot):
            pass
        return {pod.uid for pod in sighting.pods}

    async def of(self, uid: str) -> PodSeen | PodGone:
        while isinstance(sighting := await self.next(), Snapshot) or sighting.uid != uid:
            pass
        return sighting

    async def close(self) -> None:
        await self._sightings.aclose()
        # aiohttp says that a TLS connection is closed before it is, and tells nobody when.
        await asyncio.sleep(0.25)


class Forgotten(source._Pods):
    """Watches from the first version of all after its first list."""

    lists = 0

    async def list(self, **selectors: str):
        found = await super().list(**selectors)
        self.lists += 1
        if self.lists > 1:
            return found
        first = msgspec.structs.replace(found.metadata, resource_version="1")
        return msgspec.structs.replace(found, metadata=first)


@pytest.fixture
def keepers(cluster):
    namespace = f"podwatch-{uuid.uuid4().hex[:8]}"
    kubernetes.make_namespace(namespace)
    with lab.network():
        yield Keepers(namespace)
    lab.kubectl("delete", "namespace", namespace, "--wait=false")


@pytest.fixture
async def watching(keepers) -> AsyncIterator[Watching]:
    watching = Watching(KubernetesSource(NODE, keepers.namespace, str(lab.KUBECONFIG)))
    assert await watching.snapshot() == set()
    yield watching
    await watching.close()


async def test_a_keeper_is_told_with_its_address_when_it_runs_and_gone_when_deleted(
    keepers, watching
):
    name, uid = await keepers.start(SLEEP)
    seen = await watching.of(uid)
    assert isinstance(seen, PodSeen)
    assert seen.ip.startswith("10.42.0.")
    assert (seen.name, seen.port, seen.labels) == (name, CONTROL_PORT, LABELS)
    assert seen.log == f"{LOGS}/{keepers.namespace}_{name}_{uid}/{KEEPER_CONTAINER}/0.log"
    assert lab.run("ls", seen.log)
    await keepers.delete(name)
    gone = await watching.of(uid)
    assert isinstance(gone, PodGone)


async def test_a_keeper_that_ends_is_told_gone_with_its_exit_code(keepers, watching):
    name, uid = await keepers.start(["sh", "-c", "mkfifo /tmp/end; exit $(cat /tmp/end)"])
    assert isinstance(await watching.of(uid), PodSeen)
    await keepers.kubectl("exec", name, "--", "sh", "-c", "echo 7 >/tmp/end")
    assert await watching.of(uid) == PodGone(uid, "its keeper ended with exit code 7")


async def test_both_sources_tell_the_same_of_a_pod(keepers, watching):
    beside = Watching(ContainerdSource([str(lab.CONTAINERD_SOCKET_FROM_OUTSIDE)]))
    await beside.snapshot()
    name, uid = await keepers.start(SLEEP)
    by_runtime, by_api = await beside.of(uid), await watching.of(uid)
    await keepers.delete(name)
    gone = await asyncio.gather(beside.of(uid), watching.of(uid))
    await beside.close()
    assert isinstance(by_runtime, PodSeen)
    assert isinstance(by_api, PodSeen)
    assert (by_runtime.uid, by_runtime.name, by_runtime.ip) == (by_api.uid, by_api.name, by_api.ip)
    assert (by_runtime.labels, by_runtime.log) == (by_api.labels, by_api.log)
    assert [type(s) for s in gone] == [PodGone, PodGone]


async def test_pods_outlive_a_restart_of_the_api_server_and_what_ends_later_is_told(
    keepers, watching
):
    name, uid = await keepers.start(SLEEP)
    await watching.of(uid)
    await asyncio.to_thread(kubernetes.restart_apiserver)
    assert await watching.snapshot() == {uid}
    await keepers.delete(name)
    assert isinstance(await watching.of(uid), PodGone)


async def test_a_version_that_the_server_has_forgotten_leads_to_a_list(
    keepers, caplog, monkeypatch
):
    """410, which is also how a watch ends that was too slow."""
    caplog.set_level("INFO")
    # One that has run since the first version has forgotten nothing yet.
    await asyncio.to_thread(lab.restart_apiserver)
    monkeypatch.setattr(source, "_Pods", Forgotten)
    watching = Watching(KubernetesSource(NODE, keepers.namespace, str(lab.KUBECONFIG)))
    await watching.snapshot()
    await watching.snapshot()
    _, uid = await keepers.start(SLEEP)
    assert isinstance(await watching.of(uid), PodSeen)
    await watching.close()
    assert "too old resource version" in caplog.text


async def test_no_permission_is_said_and_makes_nothing_gone(keepers, caplog, tmp_path: Path):
    config = tmp_path / "nobody.kubeconfig"
    admin = json.loads(lab.KUBECONFIG.read_text())
    config.write_text(json.dumps({**admin, "users": [{"name": "admin", "user": {}}]}))
    watching = Watching(KubernetesSource(NODE, keepers.namespace, str(config)))
    telling = asyncio.ensure_future(watching.next())
    while "401" not in caplog.text and "403" not in caplog.text:
        await asyncio.wait({telling}, timeout=0.05)
        assert not telling.done()
    telling.cancel()
    await asyncio.wait({telling})
    await watching.close()
