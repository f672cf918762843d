"""Functions with images of their own on a real Kubernetes: Deployments, natively run wasm, and
what an author is told when it does not work.

NATS, scheduler, podwatch and router are processes on the node, as in the scheduler's own tests; the
Deployments and their pods are the lab's, made with the rights of the scheduler's own account.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from schemas.endpoints import Endpoint
from schemas.status import Status
from services.bus.connection import connect
from tests.cluster import keepers, lab
from tests.cluster.keepers import NAMESPACE
from tests.cluster.lab import containerd, node
from tests.cluster.lab.containerd import BUSYBOX_IMAGE
from tests.conftest import NatsServer
from tests.services.scheduler.stack import Stack, running

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

ROUTER = f"{node.ADDRESS}:18080"
WASM = Path(__file__).parent / "native"
SORT = Path(__file__).parents[2] / "examples/sort/sort.wasm"


@pytest.fixture(autouse=True)
def on_the_node(cluster: None) -> Iterator[None]:
    # Asked for by `stack`, too: whatever is started is to be on the node's network.
    with lab.network():
        yield


@pytest.fixture(scope="module")
def wasm_image(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image of an HTTP server that is a wasm module and nothing else."""
    context = tmp_path_factory.mktemp("wasm")
    (context / "server.wasm").write_bytes((WASM / "server.wasm").read_bytes())
    (context / "Dockerfile").write_text(
        'FROM scratch\nCOPY server.wasm /\nENTRYPOINT ["/server.wasm"]\n'
    )
    lab.build_image(context, "test/served:1")
    return lab.push_image("test/served:1")


@pytest.fixture(scope="module")
def keeper_image(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image like upstream's: a keeper with one module, which serves by itself."""
    context = tmp_path_factory.mktemp("keeper")
    (context / "sort.wasm").write_bytes(SORT.read_bytes())
    base = "wasmfn/keeper:" + keepers.image().rpartition(":")[2]
    (context / "Dockerfile").write_text(f"FROM {base}\nCOPY sort.wasm /sort.wasm\n")
    lab.build_image(context, "test/kept:1")
    return lab.push_image("test/kept:1")


@pytest_asyncio.fixture
async def stack(on_the_node: None, tmp_path: Path, nats_server: NatsServer) -> AsyncIterator[Stack]:
    """Everything but keepers and a builder, which no one here needs."""
    async with (
        connect(nats_server.settings, "test") as bus,
        running(Stack(tmp_path, nats_server.settings, bus)) as stack,
    ):
        stack.start(
            "podwatch",
            source="containerd",
            node=node.NAME,
            containerd_sockets=json.dumps([str(lab.CONTAINERD_SOCKET_FROM_OUTSIDE)]),
        )
        stack.start("router", http=ROUTER)
        await asyncio.to_thread(start_scheduler, stack)
        await stack.until(lambda: stack.events("leader-elected"))
        await until(router_listens)
        yield stack
    await asyncio.to_thread(remove_all)


def start_scheduler(stack: Stack) -> None:
    stack.start(
        "scheduler",
        runtime="kubernetes",
        keeper_image="unused",
        warm_namespaces="[]",
        kubeconfig=keepers.write_kubeconfig(stack.directory / "kubeconfig"),
    )


def remove_all() -> None:
    for kind in ("deployments", "pods"):
        lab.kubectl("delete", kind, "--all", "-n", NAMESPACE, "--grace-period=1", "--wait=false")


async def found(kind: str) -> list[dict[str, Any]]:
    """The Deployments or pods of functions that were not told to end."""
    said = await asyncio.to_thread(
        lab.kubectl, "get", kind, "-n", NAMESPACE, "-l", "wasmfn/role=function", "-o", "json"
    )
    items: list[dict[str, Any]] = json.loads(said)["items"]
    return [item for item in items if "deletionTimestamp" not in item["metadata"]]


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Return when something of the cluster is so, which tells nobody."""
    async with asyncio.timeout(60):
        while not await holds():  # noqa: ASYNC110 - as it says
            await asyncio.sleep(0.1)


async def router_listens() -> bool:
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_connection(*ROUTER.split(":"))
        writer.close()
        return True
    return False


async def deploy(stack: Stack, name: str, image: str, **fields: Any) -> int:
    """Publish a function with an image of its own and a route to it; return its revision."""
    spec = {"image": image, "executor": "deployment", **fields}
    revision = await stack.apply("function", name, spec)
    await stack.apply("route", name, {"function": name, "path": f"/{name}"})
    return revision


async def active(stack: Stack, name: str, revision: int) -> Status:
    return await stack.status(name, "active", revision, within_s=90)


async def call(name: str, body: bytes = b"") -> httpx.Response:
    async with httpx.AsyncClient(timeout=60) as client:
        method = "POST" if body else "GET"
        return await client.request(method, f"http://{ROUTER}/{name}", content=body)


async def only_endpoint(stack: Stack, function: str) -> Endpoint:
    await stack.until(lambda: len(stack.endpoints(function)) == 1)
    [endpoint] = stack.endpoints(function)
    return endpoint


async def test_a_wasm_image_runs_natively_is_updated_scaled_to_zero_and_deleted(
    stack: Stack, wasm_image: str
) -> None:
    native = {"port": 8080, "runtime_class": "wasm"}
    one = {"container": native, "scaling": {"min_instances": 1}}
    await active(stack, "web", await deploy(stack, "web", wasm_image, arguments=["v1"], **one))
    answer = await call("web", b"hello")
    assert (answer.status_code, answer.text) == (200, "hello")
    assert answer.headers["x-version"] == "v1"
    assert (await only_endpoint(stack, "web")).token == ""
    [pod] = await found("pods")
    assert pod["spec"]["runtimeClassName"] == "wasm"
    assert pod["spec"]["automountServiceAccountToken"] is False

    # The old one serves until the new one does: nobody is refused in between.
    versions: list[str] = []
    updating = asyncio.Event()

    async def load() -> None:
        while not updating.is_set() or versions[-1] != "v2":
            answer = await call("web", b"x")
            assert answer.status_code == 200, answer.text
            versions.append(answer.headers["x-version"])

    loading = asyncio.create_task(load())
    scaled = {"container": native, "scaling": {"min_instances": 3}}
    second = await deploy(stack, "web", wasm_image, arguments=["v2"], **scaled)
    await active(stack, "web", second)
    updating.set()
    async with asyncio.timeout(60):
        await loading
    assert versions == sorted(versions)
    await stack.until(
        lambda: [e.revision for e in stack.endpoints("web")] == [second] * 3, within_s=90
    )

    async def one_deployment() -> bool:
        deployments = await found("deployments")
        return [d["metadata"]["labels"]["wasmfn/revision"] for d in deployments] == [str(second)]

    await until(one_deployment)

    idle = {"container": native, "scaling": {"idle_timeout_s": 1, "max_instances": 1}}
    third = await deploy(stack, "web", wasm_image, arguments=["v3"], **idle)
    await active(stack, "web", third)

    async def no_pods() -> bool:
        return not await found("pods")

    await until(no_pods)
    assert not stack.endpoints("web")
    assert [d["spec"]["replicas"] for d in await found("deployments")] == [0]
    assert (await call("web", b"cold")).headers["x-version"] == "v3"

    await stack.delete("function", "web")
    await stack.until(lambda: stack.events("deleted"))

    async def nothing() -> bool:
        return not await found("deployments") and not await found("pods")

    await until(nothing)


async def test_what_keeps_a_function_from_running_is_said_in_its_status(stack: Stack) -> None:
    crashing = ["sh", "-c", "echo no database >&2; exit 3"]
    for name, image, container, sentence in (
        ("missing", f"{lab.REGISTRY}/test/nothing:1", {}, "its image cannot be had"),
        ("classless", BUSYBOX_IMAGE, {"runtime_class": "nope"}, "kubectl get runtimeclass"),
        ("crashing", BUSYBOX_IMAGE, {"command": crashing}, "exit code 3"),
        ("commandless", BUSYBOX_IMAGE, {"command": ["/nowhere"]}, "/nowhere"),
    ):
        revision = await deploy(stack, name, image, container={"port": 8080, **container})
        status = await stack.status(name, "failed", revision, within_s=90)
        assert sentence in status.message
    assert "no database" in stack.seen.status["wasmfn.status.function.default.crashing"].message
    names = {"missing", "classless", "crashing", "commandless"}
    await stack.until(lambda: {event.name for event in stack.events("failed")} == names)
    answer = await call("crashing")
    assert answer.status_code == 503
    assert "retry-after" in answer.headers


async def test_what_serves_outlives_a_bad_update_the_scheduler_and_its_own_container(
    stack: Stack, keeper_image: str
) -> None:
    # An image like upstream's, with upstream's port and answers.
    keeper = {"limits": {"memory_mib": 256}, "scaling": {"min_instances": 1}}
    arguments = ["--mod-path", "/sort.wasm"]
    good = await deploy(stack, "sort", keeper_image, arguments=arguments, **keeper)
    await active(stack, "sort", good)
    before = await only_endpoint(stack, "sort")
    assert before.port == 10086
    assert await sorted_by_it() == ["1 2 3"]

    bad = await deploy(stack, "sort", keeper_image, arguments=["--mod-path", "/nothing"], **keeper)
    await stack.status("sort", "failed", bad, within_s=90)
    assert await sorted_by_it() == ["1 2 3"]
    assert stack.endpoints("sort") == [before]

    stack.kill("scheduler")
    assert await sorted_by_it() == ["1 2 3"]
    await asyncio.to_thread(start_scheduler, stack)
    await stack.until(lambda: len(stack.events("leader-elected")) == 2)
    last = await deploy(stack, "sort", keeper_image, arguments=arguments, **keeper)
    await active(stack, "sort", last)
    after = await only_endpoint(stack, "sort")
    assert await pods_of("sort", last) == [after.pod]

    # Its kubelet would start it again in the same pod, which has told of its end.
    [pod] = [pod for pod in await found("pods") if pod["metadata"]["uid"] == after.pod]
    container = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    await asyncio.to_thread(containerd.ctr, "task", "kill", "--signal", "9", container)
    await stack.until(
        lambda: [e for e in stack.endpoints("sort") if e.pod != after.pod], within_s=90
    )
    assert await sorted_by_it() == ["1 2 3"]
    replacement = await only_endpoint(stack, "sort")

    async def replaced() -> bool:
        return await pods_of("sort", last) == [replacement.pod]

    await until(replaced)


async def sorted_by_it() -> list[str]:
    """What the function `sort` answers through the router."""
    answer = await call("sort", b'{"args": ["3", "1", "2"]}')
    assert answer.status_code == 200, answer.text
    output: list[str] = answer.json()["output"]
    return output


async def pods_of(function: str, revision: int) -> list[str]:
    """The uids of a revision's pods."""
    return [
        pod["metadata"]["uid"]
        for pod in await found("pods")
        if pod["metadata"]["labels"]["wasmfn/function"] == function
        and pod["metadata"]["labels"]["wasmfn/revision"] == str(revision)
    ]
