"""The scheduler with keepers in a real Kubernetes: everything but the keepers runs on the node.

NATS, builder, scheduler and podwatch are processes here, as in the scheduler's own tests;
the pods, their kubelet and their containerd are the lab's.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from schemas.endpoints import Endpoint
from schemas.pods import LABEL_DEDICATED, LABEL_ROLE
from services.bus.connection import connect
from tests.cluster import keepers, lab
from tests.cluster.keepers import NAMESPACE
from tests.cluster.lab import containerd, kubernetes, node
from tests.conftest import NatsServer
from tests.services.scheduler.stack import Stack, call, running

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

KEYS = "wasmfn-keys-of-the-test"


@pytest.fixture(autouse=True)
def on_the_node(cluster: None) -> Iterator[None]:
    # Asked for by `stack`, too: whatever is started is to be on the node's network.
    with lab.network():
        yield


@pytest.fixture(scope="module")
def keeper_image(cluster: None) -> str:
    return keepers.image()


@pytest_asyncio.fixture
async def stack(
    on_the_node: None, keeper_image: str, tmp_path: Path, nats_server: NatsServer
) -> AsyncIterator[Stack]:
    """Everything, with one scheduler that leads."""
    async with (
        connect(nats_server.settings, "test") as bus,
        running(Stack(tmp_path, nats_server.settings, bus)) as stack,
    ):
        public = [(tmp_path / f"{name}.pub").read_text() for name in ("control", "artifact")]
        await asyncio.to_thread(keepers.put_keys, KEYS, *public)
        stack.start(
            "podwatch",
            source="containerd",
            node=node.NAME,
            containerd_sockets=json.dumps([str(lab.CONTAINERD_SOCKET_FROM_OUTSIDE)]),
        )
        stack.start("builder")
        start_scheduler(stack, keeper_image)
        await stack.until(lambda: stack.events("leader-elected"))
        yield stack
    await asyncio.to_thread(keepers.remove_all)


def start_scheduler(stack: Stack, keeper_image: str) -> None:
    stack.start(
        "scheduler",
        runtime="kubernetes",
        keeper_image=keeper_image,
        keeper_pod=json.dumps({"keys": KEYS, "memory_request_mib": 64}),
        kubeconfig=keepers.write_kubeconfig(stack.directory / "kubeconfig"),
        keeper_linger_s=0.5,
    )


async def pods() -> dict[str, dict[str, Any]]:
    """The keepers that the API server knows and that were not told to end, by uid."""
    found = await asyncio.to_thread(
        lab.kubectl, "get", "pods", "-n", NAMESPACE, "-l", f"{LABEL_ROLE}=keeper", "-o", "json"
    )
    return {
        pod["metadata"]["uid"]: pod
        for pod in json.loads(found)["items"]
        if "deletionTimestamp" not in pod["metadata"]
    }


async def container_of(uid: str) -> str:
    """Return the id of a keeper's container, which serves before its kubelet reports it."""
    async with asyncio.timeout(60):
        while True:
            statuses = (await pods())[uid]["status"].get("containerStatuses", [{}])
            if container := str(statuses[0].get("containerID", "")):
                return container.removeprefix("containerd://")
            await asyncio.sleep(0.1)


async def address_of(uid: str) -> str:
    """Return a keeper's address, which serves before its kubelet reports it."""
    async with asyncio.timeout(60):
        while True:
            if address := str((await pods())[uid]["status"].get("podIP", "")):
                return address
            await asyncio.sleep(0.1)


async def process_of(endpoint: Endpoint) -> str:
    """Return the process id of an endpoint's keeper on the node."""
    container = await container_of(endpoint.pod)
    tasks = (await asyncio.to_thread(containerd.ctr, "task", "ls")).splitlines()
    (pid,) = [line.split()[1] for line in tasks if line.startswith(container)]
    return pid


async def until_read(port: int, pid: str) -> None:
    """Return when a call to a function of this keeper has been read by it."""
    async with asyncio.timeout(30):
        while True:
            table = await asyncio.to_thread(lab.run, "cat", f"/proc/{pid}/net/tcp")
            # proc(5): local address, remote address, state (01 is established), queues.
            if any(
                fields[1].endswith(f":{port:04X}")
                and fields[3] == "01"
                and fields[4].endswith(":00000000")
                for fields in map(str.split, table.splitlines())
            ):
                return
            await asyncio.sleep(0.01)


async def only_endpoint(stack: Stack, function: str) -> Endpoint:
    await stack.until(lambda: len(stack.endpoints(function)) == 1)
    [endpoint] = stack.endpoints(function)
    return endpoint


async def test_a_function_is_loaded_on_a_keeper_pod_and_answers_at_its_address(
    stack: Stack,
) -> None:
    await stack.deploy("sort")
    endpoint = await only_endpoint(stack, "sort")
    assert (await call(endpoint, "3", "1", "2")).json()["output"] == ["1 2 3"]
    assert (endpoint.ip, endpoint.node) == (await address_of(endpoint.pod), node.NAME)
    assert 20000 <= endpoint.port <= 20999


async def test_a_function_isolated_by_pod_has_a_keeper_of_its_own(stack: Stack) -> None:
    await stack.deploy("shared")
    await stack.deploy("alone", isolation="pod")
    shared, alone = [await only_endpoint(stack, name) for name in ("shared", "alone")]
    assert shared.pod != alone.pod
    found = await pods()
    assert found[alone.pod]["metadata"]["labels"][LABEL_DEDICATED] == "alone"
    assert LABEL_DEDICATED not in found[shared.pod]["metadata"]["labels"]
    await stack.delete("function", "alone")
    await stack.until(lambda: stack.events("keeper-stopped"))
    assert set(await pods()) == {shared.pod}


async def test_what_was_on_a_keeper_that_dies_is_served_by_another_one(stack: Stack) -> None:
    await stack.deploy("sort", scaling={"min_instances": 1})
    first = await only_endpoint(stack, "sort")
    container = await container_of(first.pod)
    await asyncio.to_thread(containerd.ctr, "task", "kill", "--signal", "9", container)
    await stack.until(lambda: [e for e in stack.endpoints("sort") if e.pod != first.pod])
    second = await only_endpoint(stack, "sort")
    assert second.instance != first.instance
    assert (await call(second, "2", "1")).json()["output"] == ["1 2"]


async def test_a_keeper_that_is_drained_ends_its_call_while_another_one_takes_over(
    stack: Stack,
) -> None:
    await stack.deploy("f", "sleepy", scaling={"min_instances": 1})
    first = await only_endpoint(stack, "f")
    name = (await pods())[first.pod]["metadata"]["name"]
    pid = await process_of(first)
    slow = asyncio.create_task(call(first, "4"))
    await until_read(first.port, pid)
    # What `kubectl drain --force` does to each pod.
    await asyncio.to_thread(lab.kubectl, "delete", "pod", name, "-n", NAMESPACE, "--wait=false")
    await stack.until(lambda: [e for e in stack.endpoints("f") if e.pod != first.pod])
    assert first.pod not in await pods()
    assert (await slow).status_code == 200


async def test_the_next_scheduler_goes_on_with_the_same_pods(
    stack: Stack, keeper_image: str
) -> None:
    await stack.deploy("sort", scaling={"min_instances": 1})
    before, uids = await only_endpoint(stack, "sort"), set(await pods())
    stack.kill("scheduler")
    assert (await call(before, "2", "1")).json()["output"] == ["1 2"]
    start_scheduler(stack, keeper_image)
    await stack.until(lambda: len(stack.events("leader-elected")) == 2)
    await stack.deploy("another")
    assert stack.endpoints("sort") == [before]
    assert set(await pods()) == uids


async def test_without_an_api_server_everything_goes_on_but_new_keepers(stack: Stack) -> None:
    await stack.deploy("sort", scaling={"min_instances": 1})
    before, uids = await only_endpoint(stack, "sort"), set(await pods())
    await asyncio.to_thread(kubernetes.stop, "kube-apiserver")
    try:
        await stack.deploy("another")  # On the keeper that is there.
        assert (await call(await only_endpoint(stack, "another"), "2", "1")).status_code == 200
        revision = await stack.apply(
            "function", "alone", {"module": await stack.upload("sort"), "isolation": "pod"}
        )
    finally:
        await asyncio.to_thread(kubernetes.start_apiserver)
    await stack.status("alone", "active", revision, within_s=90)
    assert stack.endpoints("sort") == [before]
    assert set(await pods()) > uids
    assert not stack.events("keeper-died")
