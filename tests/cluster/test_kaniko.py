"""Image builds as Jobs on a real cluster, up to the module that is pulled out of a registry."""

import asyncio

import pytest

from services.builder.errors import Unavailable
from services.builder.images.contexts import Contexts
from services.builder.images.kaniko import KanikoImages
from services.builder.images.settings import ImageSettings
from services.builder.registry import Policy, pull
from tests.cluster import lab
from tests.cluster.kaniko import (
    LOGIN,
    POLICY,
    REGISTRY,
    SORT,
    executor,
    fetcher,
    holds,
    jobs,
    kubeconfig,
    made,
    namespace,
    new_build,
    on_node,
    private_registry,
    registry,
    settings,
    some_job,
)
from tests.cluster.lab import node, paths
from tests.cluster.lab.commands import CommandError
from tests.services.builder import wasm

__all__ = [
    "executor",
    "fetcher",
    "kubeconfig",
    "namespace",
    "on_node",
    "private_registry",
    "registry",
    "settings",
]

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


async def build(
    settings: dict[str, object],
    module: bytes = SORT,
    name: str = "sort.wasm",
    build: str = "",
    said: list[str] | None = None,
) -> str:
    """Have an image made, in this process; `said` gets what is told meanwhile."""
    said = [] if said is None else said
    contexts = Contexts()
    async with contexts.serving(f"{lab.NODE_ADDRESS}:0") as url:
        chosen = ImageSettings(**{"kaniko_context_url": url, **settings})
        made = KanikoImages(
            chosen, contexts, platform="linux/amd64", insecure=(f"{lab.NODE_ADDRESS}:*",)
        )
        return await made.build(build or new_build(), module, name, said.append)


async def test_the_platform_pulls_out_of_the_pushed_image_the_module_that_went_in(settings):
    reference = await build(settings)
    assert reference.startswith(f"{REGISTRY}/functions/sort@sha256:")
    pulled = await pull(reference, POLICY)
    assert (pulled.file_name, pulled.module) == ("sort.wasm", SORT)
    assert reference.endswith(pulled.digest)
    assert jobs(settings["kaniko_namespace"]) == []


async def test_building_again_makes_an_equal_image(settings):
    assert await build(settings) == await build(settings)


async def test_several_builds_run_at_once_and_none_gets_anothers_module(settings):
    modules = [SORT, wasm.module(), wasm.module(memory=b"\x00\x02")]
    names = ["sort.wasm", "Dockerfile", "UPPER_case.wasm"]
    made = await asyncio.gather(
        *(build(settings, module, name) for module, name in zip(modules, names, strict=True))
    )
    for reference, module, name in zip(made, modules, names, strict=True):
        pulled = await pull(reference, POLICY)
        assert (pulled.file_name, pulled.module) == (name, module)


async def test_a_push_that_fails_is_told_with_the_end_of_the_executors_log(settings):
    nobody = f"{lab.NODE_ADDRESS}:1"
    settings["kaniko_destination"] = f"{nobody}/x:{{build}}"
    with pytest.raises(Unavailable) as failure:
        await build(settings)
    assert "its executor ended with status" in str(failure.value)
    assert "connection refused" in str(failure.value)
    # It stays to be looked at, and gives way to the next try.
    assert len(jobs(settings["kaniko_namespace"])) == 1


async def test_a_private_registry_is_pushed_to_with_the_secret_and_not_without(
    settings, private_registry
):
    settings["kaniko_destination"] = f"{private_registry}/x/{{name}}:{{build}}"
    with pytest.raises(Unavailable, match=r"authentication required|unauthorized"):
        await build(settings)
    user, _, password = LOGIN.partition(":")
    lab.kubectl(
        "-n", str(settings["kaniko_namespace"]), "create", "secret", "docker-registry", "push",
        f"--docker-server={private_registry}", f"--docker-username={user}",
        f"--docker-password={password}",
    )  # fmt: skip
    reference = await build({**settings, "kaniko_push_secret": "push"})
    allowed = Policy(
        max_bytes=1 << 26, insecure=(private_registry,), credentials={private_registry: LOGIN}
    )
    assert (await pull(reference, allowed)).module == SORT


async def test_a_failed_job_gives_way_when_the_build_is_tried_again(settings):
    build_id = new_build()
    broken = {**settings, "kaniko_arguments": ("--no-such-argument",)}
    with pytest.raises(Unavailable, match="unknown argument --no-such-argument"):
        await build(broken, build=build_id)
    assert await build(settings, build=build_id)


async def test_an_executor_that_cannot_be_pulled_is_named_when_time_is_up(settings):
    settings |= {"kaniko_executor": f"{lab.REGISTRY}/no/executor:1", "kaniko_deadline_s": 8}
    said: list[str] = []
    with pytest.raises(Unavailable) as failure:
        await build(settings, said=said)
    assert "it did not end within 8 s; its executor waits" in str(failure.value)
    assert "no/executor:1" in str(failure.value)
    assert "is made by Job build-" in said[0]
    assert "is held up: its executor waits, ErrImagePull" in said[1]


async def test_a_job_that_somebody_deletes_is_told_of(settings):
    contexts_away = {**settings, "kaniko_context_url": f"http://{lab.NODE_ADDRESS}:1"}
    building = asyncio.create_task(build(contexts_away))
    await some_job(settings["kaniko_namespace"])
    lab.kubectl("-n", settings["kaniko_namespace"], "delete", "jobs", "--all", "--wait=false")
    with pytest.raises(Unavailable, match="was deleted"):
        await building


async def test_a_cut_off_build_is_gone_on_with_and_a_discarded_one_is_ended(settings):
    namespace = settings["kaniko_namespace"]
    build_id = new_build()
    away = {**settings, "kaniko_context_url": f"http://{lab.NODE_ADDRESS}:1"}
    building = asyncio.create_task(build(away, build=build_id))
    await some_job(namespace)
    building.cancel()
    await asyncio.wait([building])
    assert len(jobs(namespace)) == 1
    images = KanikoImages(ImageSettings(**away), Contexts(), platform="linux/amd64", insecure=())
    await images.discard(build_id)
    assert jobs(namespace) == []
    await images.discard(build_id)


async def test_a_job_that_ended_while_no_builder_was_there_is_read_and_not_made_again(settings):
    namespace = settings["kaniko_namespace"]
    build_id = new_build()
    contexts = Contexts()
    async with contexts.serving(f"{lab.NODE_ADDRESS}:0") as url:
        chosen = {**settings, "kaniko_context_url": url}
        images = KanikoImages(
            ImageSettings(**chosen), contexts, platform="linux/amd64",
            insecure=(f"{lab.NODE_ADDRESS}:*",),
        )  # fmt: skip
        building = asyncio.create_task(images.build(build_id, SORT, "sort.wasm", print))
        await some_job(namespace)
        fetched = ["get", "pods", "-o", "jsonpath={..initContainerStatuses..terminated.exitCode}"]
        await holds(lambda: lab.kubectl("-n", namespace, *fetched) == "0")
        building.cancel()
        await asyncio.wait([building])
        assert building.cancelled()
    done = ["wait", "--for=condition=Complete", "job", "--all", "--timeout=60s"]
    await asyncio.to_thread(lab.kubectl, "-n", namespace, *done)
    # Other settings than those of the Job that is there: what it did stands in it.
    other = {**chosen, "kaniko_destination": "registry.example/other:{build}"}
    reference = await build(other, build=build_id)
    assert reference.startswith(f"{REGISTRY}/functions/sort@sha256:")
    assert (await pull(reference, POLICY)).module == SORT
    assert made(namespace) == 1


async def test_modules_go_through_a_directory_of_the_node_if_told_so(settings, tmp_path):
    settings |= {"kaniko_host_path": str(tmp_path / "workplace"), "kaniko_node": node.NAME}
    pulled = await pull(await build(settings), POLICY)
    assert (pulled.file_name, pulled.module) == ("sort.wasm", SORT)
    assert list((tmp_path / "workplace").iterdir()) == []


async def test_without_the_right_to_make_jobs_it_says_so(settings):
    settings["kaniko_namespace"] = "default"
    with pytest.raises(Unavailable, match=r'the API server answers 403: jobs\.batch "build-'):
        await build(settings)


async def test_an_api_server_that_is_away_is_a_reason_to_wait(settings, tmp_path):
    file = tmp_path / "kubeconfig"
    file.write_text(file.read_text().replace(":6443", ":1"))
    with pytest.raises(Unavailable, match="the API server cannot be asked"):
        await build(settings)


def test_the_role_gives_no_right_to_read_secrets_or_logs_or_to_change_jobs(kubeconfig, namespace):
    for verb, resource in (("patch", "jobs"), ("list", "secrets"), ("get", "pods/log")):
        with pytest.raises(CommandError):
            lab.run(
                paths.VENV / "bin/kubectl", f"--kubeconfig={kubeconfig}", "-n", namespace,
                "auth", "can-i", "--quiet", verb, resource,
            )  # fmt: skip
