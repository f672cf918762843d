"""What only a cluster can do to those who use it: build by Jobs, drain nodes, change its keepers.

What builds is the lab's stand-in for kaniko (tests/cluster/executor): a Job that takes kaniko's
arguments, and really builds and pushes.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas.builds import Build
from schemas.events import Event
from schemas.names import sha256_hex
from services.builder.registry import Policy, pull
from tests.cluster import lab
from tests.cluster.lab import containerd, node
from tests.cluster.lab.commands import wait_until
from tests.scenarios.caller import deploy, endpoints, never_built, post
from tests.scenarios.conftest import ON_CLUSTER
from tests.scenarios.load import Load
from tests.scenarios.platforms.cluster import FUNCTIONS, SYSTEM, ClusterPlatform
from tests.scenarios.platforms.protocol import KEPT, STREAM
from tests.scenarios.story import DEADLINE_S, Story
from wasmfn.client import Client

pytestmark = [*ON_CLUSTER]

REGISTRY = f"{lab.NODE_ADDRESS}:5000"
KEEPERS = "wasmfn/role=keeper"


@pytest.fixture
def platform(cluster_platform: ClusterPlatform) -> ClusterPlatform:
    return cluster_platform


@pytest.fixture(autouse=True)
def on_the_node(platform: ClusterPlatform) -> Iterator[None]:
    with platform.reachable():
        yield


async def built(platform: ClusterPlatform, event: Event) -> Build:
    """Return the record of the build that an event tells of."""
    async with platform.insight() as client:
        (entry,) = await client._snapshot("BUILDS", f"wasmfn.builds.{event.name}")
    return msgspec.json.decode(entry.payload, type=Build)


async def told(client: Client, what: str, holds: Callable[[Event], bool], since: Story) -> Event:
    """Return the first event, of whatever it is, that `holds`."""
    async with asyncio.timeout(DEADLINE_S):
        async for event in client.events(since.begin, follow=True):
            if event.what == what and holds(event):
                return event
    raise AssertionError(what)


async def kubectl(*words: str) -> str:
    return await asyncio.to_thread(lab.kubectl, *words)


async def configure(variable: str) -> None:
    """Set a variable of the scheduler, or with `-` at its end remove it, as an upgrade would."""
    await kubectl("set", "env", "deployment/scheduler", "-n", SYSTEM, variable)
    await kubectl("rollout", "status", "deployment/scheduler", "-n", SYSTEM, "--timeout=120s")


async def until(what: str, true: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, what, true, within_s=DEADLINE_S, every_s=0.2)


async def test_a_deployed_module_becomes_an_image_in_the_registry_by_a_job(
    platform: ClusterPlatform, tmp_path: Path
) -> None:
    module = never_built("sort", tmp_path / "pictured.wasm")
    async with platform.nats() as client:
        story = Story(client, "pictured")
        done = platform.cli("deploy", str(tmp_path / "pictured.wasm"))
        assert done.returncode == 0, done.stderr.decode()
        (spec, *_) = await story.until("active")
        ready = await told(client, "ready", lambda e: e.correlation == spec.correlation, story)
        record = await built(platform, ready)
        job = await told(
            client, "image-progress", lambda e: e.correlation == spec.correlation, story
        )
    assert "is made by Job build-" in job.message
    assert record.image is not None
    assert record.image.startswith(f"{REGISTRY}/functions/pictured@sha256:")
    pulled = await pull(record.image, Policy(max_bytes=1 << 26, insecure=(REGISTRY,)))
    assert (pulled.file_name, pulled.module) == ("pictured.wasm", module)
    assert await kubectl("get", "jobs", "-n", "wasmfn-builds", "-o", "name") == ""
    answer = await post(platform, "/pictured", args=["2", "1"])
    assert answer.json()["output"] == ["1 2"]


async def test_a_function_of_an_image_in_the_registry_runs(
    platform: ClusterPlatform, tmp_path: Path
) -> None:
    module = never_built("sort", tmp_path / "again.wasm")
    done = platform.cli("deploy", str(tmp_path / "again.wasm"))
    assert done.returncode == 0, done.stderr.decode()
    digest = sha256_hex(module)
    image = f"{REGISTRY}/functions/again:{digest}"
    done = platform.cli("fn", "create", "--name", "by-image", "--image", image)
    assert done.returncode == 0, done.stderr.decode()
    url = ("--url", "/by-image", "--method", "POST", "--function", "by-image")
    assert platform.cli("route", "create", *url).returncode == 0
    assert (await post(platform, "/by-image", args=["2", "1"])).json()["output"] == ["1 2"]


async def test_a_drain_takes_keepers_without_force_and_fails_no_request(
    platform: ClusterPlatform,
) -> None:
    deploy(platform, "sort", "drained")
    async with Load(platform, "/drained", 8, args=["2", "1"]) as load:
        (old,) = await endpoints(platform, "drained")
        try:
            # All keepers of the only node: until it may be used again there is nowhere to go.
            said = await kubectl(
                "drain", node.NAME, f"--pod-selector={KEEPERS}", "--delete-emptydir-data",
                "--timeout=120s",
            )  # fmt: skip
        finally:
            await kubectl("uncordon", node.NAME)
        assert "evicted" in said
        await load.more(50)
        assert old.pod not in platform.keepers()
    assert load.failed == []


async def test_keepers_of_other_settings_are_replaced_and_fail_no_request(
    platform: ClusterPlatform,
) -> None:
    deploy(platform, "sort", "renewed")
    old = set(platform.keepers())
    async with Load(platform, "/renewed", 8, args=["2", "1"]) as load:
        await configure('WASMFN_SCHEDULER_KEEPER_POD={"cpu_request": "90m"}')
        await until("the keepers are others", lambda: not old & set(platform.keepers()))
        await load.more(50)
        assert platform.keepers()
    assert load.failed == []
    await configure("WASMFN_SCHEDULER_KEEPER_POD-")


async def test_an_image_of_keepers_that_cannot_be_pulled_is_told_of_and_stops_nothing(
    platform: ClusterPlatform,
) -> None:
    deploy(platform, "sort", "steady")
    image = json.loads(await kubectl("get", "deployment/scheduler", "-n", SYSTEM, "-o", "json"))
    (container,) = image["spec"]["template"]["spec"]["containers"]
    (good,) = (e["value"] for e in container["env"] if e["name"].endswith("KEEPER_IMAGE"))
    async with platform.nats() as client:
        story = Story(client, "steady")
        # Another keeper may have nothing to hold any more, and end in the meantime.
        old = {endpoint.pod for endpoint in await endpoints(platform, "steady")}
        async with Load(platform, "/steady", 4, args=["2", "1"]) as load:
            await configure(f"WASMFN_SCHEDULER_KEEPER_IMAGE={good}-of-nobody")
            await told(client, "keeper-waits", lambda e: "-of-nobody" in e.message, story)
            assert old <= set(platform.keepers())
            await configure(f"WASMFN_SCHEDULER_KEEPER_IMAGE={good}")
            await until("no keeper waits any more", lambda: not waiting())
            await load.more(50)
        assert load.failed == []


def waiting() -> list[str]:
    chosen = ["-n", FUNCTIONS, "-l", KEEPERS, "--field-selector=status.phase=Pending"]
    return lab.kubectl("get", "pods", *chosen, "-o", "name").split()


def test_a_subject_that_routers_are_not_permitted_is_refused_with_what_to_change(
    platform: ClusterPlatform,
) -> None:
    deploy(platform, "hello", "outside")
    create = ("subscription", "create", "--name", "outside", "--function", "outside")
    refused = platform.cli(*create, "--subject", "shop.orders")
    assert refused.returncode == 5
    assert b"--subject 'app.>' --subject 'shop.orders'" in refused.stderr
    refused = platform.cli(*create, "--subject", "app.orders", "--stream", "ORDERS")
    assert refused.returncode == 5
    assert f"--stream '{STREAM}={KEPT}' --stream 'ORDERS=app.orders'".encode() in refused.stderr
    platform.cli("subscription", "delete", "outside")


def test_an_installation_that_forgets_the_subjects_of_applications_changes_nothing(
    platform: ClusterPlatform,
) -> None:
    refused = platform.cli("install", "--overlay", "lab")
    assert refused.returncode == 5
    assert f"--stream '{STREAM}={KEPT}' keeps".encode() in refused.stderr


async def test_a_stored_call_survives_the_death_of_every_router(platform: ClusterPlatform) -> None:
    deploy(platform, "sleepy", "surviving")
    accepted = platform.cli("invoke", "surviving", "10", "--async")
    assert accepted.returncode == 0, accepted.stderr.decode()
    number = accepted.stdout.decode().strip().rpartition("/")[2]

    def told() -> dict[str, Any]:
        shown = platform.cli("invocations", "get", "surviving", number, "-o", "json")
        assert shown.returncode == 0, shown.stderr.decode()
        return dict(json.loads(shown.stdout))

    await until("it runs", lambda: told()["state"] == "running")
    chosen = ("-n", SYSTEM, "-l", "app.kubernetes.io/name=router", "-o", "json")
    for pod in json.loads(await kubectl("get", "pods", *chosen))["items"]:
        container = pod["status"]["containerStatuses"][0]["containerID"]
        name = container.removeprefix("containerd://")
        containerd.ctr("tasks", "kill", "--all", "--signal", "SIGKILL", name)
    waited = platform.cli("invocations", "wait", "surviving", number, "--timeout", "2m")
    assert waited.returncode == 0, waited.stderr.decode()
    assert waited.stdout == b"slept 10 s\n"
    assert [attempt["outcome"] for attempt in told()["attempts"]] == ["lost", "done"]
