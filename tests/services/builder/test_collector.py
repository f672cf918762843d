"""Garbage is collected, and only garbage: real builder, real NATS."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from schemas import subjects
from schemas.builds import MODULES_BUCKET, Build, BuildRequest, UploadSource, artifact_object
from schemas.events import Event
from schemas.specs import FunctionSpec, Module
from schemas.streams import ACTIVE, BUILDS, SPECS
from services.builder.artifacts import Artifacts
from services.builder.claimants import Claimants, Unreadable
from services.builder.collector import Collector
from services.builder.compile import CompileLimits
from services.builder.images.local import LocalImages
from services.builder.pipeline import Bounds, Pipeline
from services.builder.records import Records
from services.builder.registry import Policy
from services.bus import objects
from services.bus.events import event_log
from services.bus.publish import publish, tombstone
from services.bus.streams import ensure_streams
from tests.services.builder.conftest import KEY, MakeBuilder, RunningBuilder
from tests.services.builder.test_builder import SORT

pytestmark = pytest.mark.timeout(120)
BOUNDS = Bounds(1 << 20, 1 << 30, CompileLimits(), Policy(1 << 20, (), ("*",), {}, 10.0))
OFTEN = {"COLLECT_EVERY_S": "0.1", "COLLECT_AFTER_S": "0"}


def subject(name: str) -> str:
    return subjects.SPECS.subject(kind="function", namespace="default", name=name)


async def want(builder: RunningBuilder, name: str, source: UploadSource) -> None:
    spec = FunctionSpec(module=Module(source.sha256, source.file_name))
    await publish(builder.bus, subject(name), msgspec.json.encode(spec))


def variant(number: int) -> bytes:
    """Return a module that does what sort.wasm does and has another digest."""
    return SORT + b"\0\x05\x03abc" + bytes([number])


async def stored(builder: RunningBuilder) -> set[str]:
    return {found.name for found in await objects.list_all(builder.bus, MODULES_BUCKET)}


def names(build: Build) -> set[str]:
    assert build.artifact is not None
    return {build.artifact.module, artifact_object(build.artifact.module, build.artifact.engine)}


async def collected(builder: RunningBuilder, build: str) -> Event:
    """Return the event that tells that a build's record was collected."""
    subscription = await builder.bus.js.subscribe(
        subjects.EVENTS.filter(service="builder", what="collected"), ordered_consumer=True
    )
    async with asyncio.timeout(60):
        async for message in subscription.messages:
            event = msgspec.json.decode(message.data, type=Event)
            if build in event.fields["builds"]:
                await subscription.unsubscribe()
                return event
    raise AssertionError


async def test_what_no_kept_revision_names_goes_with_all_that_was_made_of_it(
    make_builder: MakeBuilder,
) -> None:
    builder = await make_builder()
    made = {}
    for number, name in enumerate(("kept", "older", "gone")):
        source = await builder.upload(variant(number), f"{name}.wasm")
        await want(builder, "sort" if name != "gone" else "gone", source)
        made[name] = await builder.build(BuildRequest(source))
    # "kept" is an earlier revision of the function by now, and kept all the same.
    await tombstone(builder.bus, subject("gone"))
    assert await stored(builder) == set().union(*(names(build) for build in made.values()))
    await builder.end()
    await builder.start(**OFTEN)

    event = await collected(builder, made["gone"].id)

    assert event.message.startswith("1 builds, 2 stored modules and artifacts and 1 images")
    assert await stored(builder) == names(made["kept"]) | names(made["older"])
    assert not (builder.images / made["gone"].id).exists()
    assert (builder.images / made["kept"].id).exists()
    # Whoever wants it again can have it.
    source = await builder.upload(variant(2), "gone.wasm")
    await want(builder, "gone", source)
    assert (await builder.build(BuildRequest(source))).state == "ready"
    assert names(made["gone"]) <= await stored(builder)


async def test_streams_that_lost_their_data_take_nothing_with_them(
    make_builder: MakeBuilder,
) -> None:
    builder = await make_builder()
    source = await builder.upload(SORT, "sort.wasm")
    await want(builder, "sort", source)
    lost = await builder.build(BuildRequest(source))
    await builder.end()
    for stream in (SPECS.name, ACTIVE.name):
        await builder.bus.js.delete_stream(stream)
    await ensure_streams(builder.bus.js)
    # Something younger than the new streams shows that collecting goes on.
    await builder.start()
    other = await builder.upload(variant(7), "other.wasm")
    young = await builder.build(BuildRequest(other))
    await builder.end()
    await builder.start(**OFTEN)

    await collected(builder, young.id)

    assert names(lost) <= await stored(builder)
    assert (builder.images / lost.id).exists()


@pytest.mark.parametrize("stream", [SPECS.name, ACTIVE.name, BUILDS.name])
async def test_while_a_stream_cannot_be_read_nothing_goes(
    builder: RunningBuilder, stream: str, tmp_path: Path
) -> None:
    build = await builder.build(BuildRequest(await builder.upload(SORT, "sort.wasm")))
    await builder.end()
    records, claimants = Records(builder.bus), Claimants(builder.bus)
    artifacts = Artifacts(builder.bus, KEY)
    images = LocalImages(builder.images, "linux/amd64")
    pipeline = Pipeline(artifacts, images, tmp_path, BOUNDS)
    following = [asyncio.create_task(records.run()), asyncio.create_task(claimants.run())]
    await records.complete.wait()
    await claimants.complete.wait()
    await builder.bus.js.delete_stream(stream)
    async with event_log(builder.bus) as events:
        collector = Collector(builder.bus, records, claimants, pipeline, images, events, after_s=0)
        with pytest.raises(Unreadable, match=f"{stream} cannot be read"):
            await collector.collect()
    for task in following:
        task.cancel()
    await asyncio.gather(*following, return_exceptions=True)
    assert names(build) <= await stored(builder)
    assert (builder.images / build.id).exists()
