"""Builds that nobody wants any more end: real builder, real NATS, real compiler."""

import msgspec
import pytest

from schemas import subjects
from schemas.builds import BuildRequest, UploadSource
from schemas.specs import FunctionSpec, Module
from services.builder.cancellation import unwanted_since
from services.bus.publish import publish, tombstone
from tests.services.builder import wasm
from tests.services.builder.conftest import MakeBuilder, RunningBuilder
from tests.services.builder.test_builder import SORT, ends

BOMB = wasm.compile_bomb(9000)
SUBJECT = subjects.SPECS.subject(kind="function", namespace="default", name="sort")


async def want(builder: RunningBuilder, source: UploadSource) -> None:
    spec = FunctionSpec(module=Module(source.sha256, source.file_name))
    await publish(builder.bus, SUBJECT, msgspec.json.encode(spec))


def test_a_build_counts_as_unwanted_from_when_it_was_first_seen_so():
    first = unwanted_since({"a", "b", "c"}, {"c"}, {}, now=10.0)
    assert first == {"a": 10.0, "b": 10.0}
    # Wanted again in between, and it starts anew.
    second = unwanted_since({"a", "b"}, {"b"}, first, now=11.0)
    assert second == {"a": 10.0}
    assert unwanted_since({"a", "b"}, set(), second, now=12.0) == {"a": 10.0, "b": 12.0}


@pytest.mark.timeout(120)
async def test_a_compiler_is_ended_when_the_spec_names_another_module(make_builder: MakeBuilder):
    builder = await make_builder(CANCEL_AFTER_S="0.2")
    bomb = await builder.upload(BOMB, "bomb.wasm")
    await want(builder, bomb)
    reply = await builder.request(BuildRequest(bomb))
    assert reply.build is not None
    compiler = await builder.compiler()

    sort = await builder.upload(SORT, "sort.wasm")
    await want(builder, sort)

    cancelled = await builder.record(reply.build.id, ("ready", "failed", "cancelled"))
    assert (cancelled.state, cancelled.error) == ("cancelled", "no spec wants it any more")
    assert ends(compiler)
    assert not (builder.images / cancelled.id).exists()
    told = await builder.events(cancelled.id, "cancelled")
    assert "bomb.wasm was cancelled" in told[-1].message
    # What is wanted is built.
    assert (await builder.build(BuildRequest(sort))).state == "ready"


@pytest.mark.timeout(120)
async def test_a_restarted_builder_ends_what_lost_its_spec_meanwhile(make_builder: MakeBuilder):
    builder = await make_builder(CANCEL_AFTER_S="0.2")
    bomb = await builder.upload(BOMB, "bomb.wasm")
    await want(builder, bomb)
    reply = await builder.request(BuildRequest(bomb))
    assert reply.build is not None
    await builder.compiler()
    await builder.end()
    await tombstone(builder.bus, SUBJECT)

    await builder.start()

    ended = await builder.record(reply.build.id, ("ready", "failed", "cancelled"))
    assert ended.state == "cancelled"


@pytest.mark.timeout(120)
async def test_a_cancelled_build_is_begun_anew_when_it_is_asked_for(make_builder: MakeBuilder):
    builder = await make_builder(CANCEL_AFTER_S="0.5")
    bomb = await builder.upload(BOMB, "bomb.wasm")
    reply = await builder.request(BuildRequest(bomb))
    assert reply.build is not None
    await builder.record(reply.build.id, ("cancelled",))
    await want(builder, bomb)
    again = await builder.request(BuildRequest(bomb))
    assert again.build is not None
    assert (again.build.state, again.build.error) == ("queued", None)
    compiler = await builder.compiler()
    await tombstone(builder.bus, SUBJECT)
    assert (await builder.record(reply.build.id, ("cancelled",))).time > again.build.time
    assert ends(compiler)
