"""The builder as a process, with its image builds as Jobs on a real cluster."""

import asyncio
import json
import signal

import msgspec
import pytest

from schemas import subjects
from schemas.builds import BuildRequest
from schemas.specs import FunctionSpec, Module
from services.builder.registry import pull
from services.bus.publish import publish
from tests.cluster import lab
from tests.cluster.kaniko import (
    POLICY,
    SORT,
    executor,
    fetcher,
    holds,
    jobs,
    kubeconfig,
    made,
    namespace,
    on_node,
    registry,
    settings,
    some_job,
)
from tests.services.builder import wasm
from tests.services.builder.conftest import bus, make_builder

__all__ = [
    "bus",
    "executor",
    "fetcher",
    "kubeconfig",
    "make_builder",
    "namespace",
    "on_node",
    "registry",
    "settings",
]

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.fixture
def environment(settings: dict[str, object]) -> dict[str, str]:
    """The settings as the builder's process is given them."""
    address = f"{lab.NODE_ADDRESS}:19091"
    chosen = {
        **settings,
        "kaniko_context_url": f"http://{address}",
        "kaniko_context_listen": address,
        "insecure_registries": [f"{lab.NODE_ADDRESS}:*"],
    }
    return {
        name.upper(): value if isinstance(value, str) else json.dumps(value)
        for name, value in chosen.items()
    }


async def test_a_builder_killed_in_mid_build_takes_the_result_of_the_job_that_runs(
    make_builder, environment, namespace
):
    builder = await make_builder(**environment)
    source = await builder.upload(SORT, "sort.wasm")
    reply = await builder.request(BuildRequest(source))
    await some_job(namespace)
    await builder.end(signal.SIGKILL)
    await builder.start()
    ended = await builder.record(reply.build.id, ("ready", "failed"), within_s=90)
    assert (ended.state, ended.error) == ("ready", None)
    assert made(namespace) == 1
    assert (await pull(ended.image, POLICY)).module == SORT


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_job_is_ended_when_the_spec_names_another_module(
    make_builder, environment, namespace, restarted
):
    # An executor that never comes: the Job runs until it is ended.
    environment["KANIKO_EXECUTOR"] = "127.0.0.1:5000/no-such-executor:1"
    builder = await make_builder(**environment, CANCEL_AFTER_S="0.5")
    subject = subjects.SPECS.subject(kind="function", namespace="default", name="sort")
    source = await builder.upload(SORT, "sort.wasm")
    wanted = FunctionSpec(module=Module(source.sha256, source.file_name))
    await publish(builder.bus, subject, msgspec.json.encode(wanted))
    reply = await builder.request(BuildRequest(source))
    await some_job(namespace)
    if restarted:
        await builder.end(signal.SIGKILL)

    other = msgspec.structs.replace(wanted, module=Module("0" * 64, "other.wasm"))
    await publish(builder.bus, subject, msgspec.json.encode(other))
    if restarted:
        await builder.start()

    ended = await builder.record(reply.build.id, ("ready", "failed", "cancelled"), within_s=90)
    assert ended.state == "cancelled"
    await holds(lambda: jobs(namespace) == [])


async def test_a_build_goes_on_after_the_api_server_was_away(make_builder, environment, namespace):
    builder = await make_builder(**environment)
    reply = await builder.request(BuildRequest(await builder.upload(SORT, "sort.wasm")))
    await some_job(namespace)
    await asyncio.to_thread(lab.restart_apiserver)
    ended = await builder.record(reply.build.id, ("ready", "failed"), within_s=90)
    assert (ended.state, ended.error) == ("ready", None)
    assert made(namespace) == 1


async def test_the_record_and_the_event_of_a_failed_build_quote_the_executor(
    make_builder, environment
):
    environment["KANIKO_DESTINATION"] = f"{lab.NODE_ADDRESS}:1/x:{{build}}"
    builder = await make_builder(**environment, GIVE_UP_S="0")
    source = await builder.upload(SORT, "sort.wasm")
    ended = await builder.build(BuildRequest(source), within_s=90)
    assert ended.state == "failed"
    assert "connection refused" in ended.error
    event = (await builder.events(ended.id, "failed"))[-1]
    assert "connection refused" in event.message


async def test_a_module_that_does_not_compile_leaves_no_job(make_builder, environment, namespace):
    builder = await make_builder(**environment)
    # It passes inspection, and the compiler finds what is wrong.
    source = await builder.upload(wasm.module(body=b"\x00\x6a\x0b"))
    ended = await builder.build(BuildRequest(source))
    assert "the module is not valid" in ended.error
    await holds(lambda: jobs(namespace) == [])
