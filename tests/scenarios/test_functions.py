"""What a user does with functions, from outside: HTTP, NATS and the CLI."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from schemas.specs import FunctionSpec, Limits, Module, RouteSpec
from tests.scenarios.caller import EXAMPLES, bytes_of, deploy, endpoints, example, never_built, post
from tests.scenarios.load import Load
from tests.scenarios.platforms.protocol import Platform
from tests.scenarios.story import Story
from wasmfn.client import Key


async def test_a_client_of_upstream_gets_upstreams_json(platform: Platform) -> None:
    done = platform.cli("deploy", example("sort"), "--name", "upstream", "--route", "POST:/sort")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().startswith(f"{platform.http}/sort")
    answer = await post(platform, "/sort", args=["1111", "2345", "8"])
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["status"] == 0
    assert answer.json()["output"] == ["8 1111 2345"]
    failed = await post(platform, "/sort", args=["x"])
    assert failed.json()["status"] == 1
    assert failed.json()["error"]


async def test_a_spec_published_by_any_nats_client_works_the_same(platform: Platform) -> None:
    async with platform.nats() as client:
        story = Story(client, "raw")
        module = await client.put_module(bytes_of("hello"), "hello.wasm")
        spec = {"module": {"sha256": module.sha256, "file_name": "hello.wasm"}}
        route = {"function": "raw", "path": "/raw"}
        await client.bus.js.publish("wasmfn.specs.function.default.raw", json.dumps(spec).encode())
        await client.bus.js.publish("wasmfn.specs.route.default.raw", json.dumps(route).encode())
        await story.until("active")
        answer = await post(platform, "/raw")
        assert answer.json()["output"] == ["hello, world"]


async def test_the_event_log_tells_a_deployment_in_order(
    platform: Platform, tmp_path: Path
) -> None:
    module = tmp_path / "told.wasm"
    never_built("exit3", module)
    async with platform.nats() as client:
        story = Story(client, "told")
        done = platform.cli("deploy", str(module))
        assert done.returncode == 0, done.stderr.decode()
        told = await story.until("active")
        steps = [event.what for event in told]
        order = ["spec-published", "building", "starting", "instance-loaded", "active"]
        assert [what for what in steps if what in order] == order
        assert len({event.correlation for event in told}) == 1
        build = [
            event.what
            async for event in client.events(story.begin)
            if event.kind == "build" and event.correlation == told[0].correlation
        ]
        wanted = ["queued", "fetch", "inspect", "ready"]
        assert [what for what in build if what in wanted] == wanted


async def test_an_update_rolls_out_without_a_failed_request(platform: Platform) -> None:
    deploy(platform, "sort", "rolling")
    async with platform.nats() as client, Load(platform, "/rolling", 8, args=["1"]) as load:
        for module in ("hello", "sort", "hello"):
            story = Story(client, "rolling")
            done = await asyncio.to_thread(
                platform.cli, "deploy", example(module), "--name", "rolling"
            )
            assert done.returncode == 0, done.stderr.decode()
            await story.until("endpoint-withdrawn")
    assert load.failed == []
    outputs = [answer.json()["output"][0] for answer in load.answers]
    assert set(outputs) == {"1", "hello, 1"}
    assert outputs[-1] == "hello, 1"


async def test_a_bad_spec_is_told_by_field_and_the_last_good_one_serves(
    platform: Platform,
) -> None:
    deploy(platform, "hello", "keeps")
    async with platform.nats() as client:
        key = Key("function", "default", "keeps")
        good = await client.get(key)
        story = Story(client, "keeps")
        await client.bus.js.publish(
            "wasmfn.specs.function.default.keeps", b'{"image": "x:1", "limits": {"timeout_s": 0}}'
        )
        (*_, event) = await story.until("spec-rejected")
        assert event.fields["field"] == "$.limits.timeout_s"
        bad = await client.get(key)
        assert bad.phase == "rejected"
        assert bad.status is not None
        assert bad.status.field == "$.limits.timeout_s"
        assert bad.active_revision == good.revision
    assert (await post(platform, "/keeps")).json()["output"] == ["hello, world"]
    listed = platform.cli("fn", "list").stdout.decode()
    assert "rejected" in next(line for line in listed.splitlines() if line.startswith("keeps"))


BAD_MODULES = {
    "text": (b"#!/bin/sh\n", b"not a WebAssembly module"),
    "empty": (b"", b"empty"),
    "component": (b"\0asm\x0d\x00\x01\x00", b"component"),
    "library": (b"\0asm\x01\x00\x00\x00", b"_start"),
    "truncated": (bytes_of("sort")[:1000], b"cut short"),
}


@pytest.mark.parametrize("bad", BAD_MODULES)
def test_a_module_that_cannot_run_is_refused_in_words_and_changes_nothing(
    platform: Platform, tmp_path: Path, bad: str
) -> None:
    content, words = BAD_MODULES[bad]
    file = tmp_path / f"bad-{bad}.wasm"
    file.write_bytes(content)
    done = platform.cli("deploy", str(file))
    assert done.returncode == 5
    assert words in done.stderr
    assert done.stderr.count(b"\n") == 1
    for kind in ("fn", "route"):
        assert f"bad-{bad}" not in platform.cli(kind, "list", "-o", "name").stdout.decode().split()


async def test_a_deleted_function_is_gone_and_its_route_says_so(platform: Platform) -> None:
    deploy(platform, "hello", "leaving")
    assert (await post(platform, "/leaving")).status_code == 200
    async with platform.nats() as client:
        story = Story(client, "leaving")
        done = platform.cli("fn", "delete", "leaving")
        assert done.returncode == 0
        assert b"wasmfn route delete leaving" in done.stderr
        await story.until("endpoint-withdrawn")
    refused = await post(platform, "/leaving")
    assert refused.status_code == 503
    assert "retry-after" in refused.headers
    assert platform.cli("route", "delete", "leaving").returncode == 0
    async with platform.nats() as client:
        assert await client.find(Key("function", "default", "leaving")) is None
    async with asyncio.timeout(60):
        while (await post(platform, "/leaving")).status_code != 404:
            pass


async def test_a_function_goes_to_zero_and_comes_back_with_the_next_request(
    platform: Platform,
) -> None:
    async with platform.nats() as client:
        story = Story(client, "sleeper")
        deploy(platform, "sort", "sleeper", "--idle-timeout", "0.3s")
        await story.until("scaled-to-zero")
        await story.until("endpoint-withdrawn")
        story.goes_on()
        answer = await post(platform, "/sleeper", args=["2", "1"])
        assert answer.json()["output"] == ["1 2"]
        cold = (await story.until("cold-start"))[-1]
        assert cold.correlation == answer.headers["x-request-id"]
        loaded = (await story.until("instance-loaded"))[-1]
        assert loaded.correlation == cold.correlation
        assert loaded.fields["steps_ms"]
        assert cold.duration_ms is not None


async def test_each_interface_has_its_own_form(platform: Platform) -> None:
    applied = platform.cli("apply", "-f", str(EXAMPLES))
    assert applied.returncode == 0, applied.stderr.decode()
    data = bytes(range(256)) * 2000
    async with httpx.AsyncClient(timeout=60) as http:
        echoed = await http.post(f"{platform.http}/echo", content=data)
        assert echoed.content == data
        page = await http.get(f"{platform.http}/page/below", headers={"user-agent": "<b>"})
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["x-example"] == "page"
        assert "&lt;b&gt;" in page.text
    again = platform.cli("apply", "-f", str(EXAMPLES)).stdout.decode()
    assert {line.split()[0] for line in again.splitlines()} == {"unchanged"}


@pytest.mark.parametrize("module", ["spin", "sleepy"])
async def test_a_call_past_its_time_is_504_and_the_next_one_is_served(
    platform: Platform, module: str
) -> None:
    deploy(platform, module, f"late-{module}", "--timeout", "0.3s")
    late = await post(platform, f"/late-{module}", args=["3"])
    if module == "spin":
        assert late.status_code == 504
        assert late.json()["status"] == 1
        assert "time" in late.json()["error"]
    else:
        # Stuck in a host call, its process can only be killed; a client is told to come again.
        assert late.status_code in (502, 504)
        async with asyncio.timeout(60):
            while (quick := await post(platform, "/late-sleepy", args=["0.01"])).status_code == 503:
                assert "retry-after" in quick.headers
        assert quick.json()["output"] == ["slept 0.01 s"]


async def test_what_a_function_writes_to_stderr_is_in_its_logs(platform: Platform) -> None:
    deploy(platform, "stderr", "talker")
    async with platform.nats() as client:
        begin = datetime.now(UTC) - timedelta(minutes=10)
        assert (await post(platform, "/talker", args=["a word"])).status_code == 200
        async with asyncio.timeout(60):
            async for entry in client.logs("default", "talker", begin, follow=True):
                if "err: a word" in entry.text:
                    break
    read = platform.cli("fn", "logs", "talker")
    assert b"err: a word" in read.stdout
    assert b"out: a word" not in read.stdout


async def test_instance_tokens_and_421_never_leave_the_platform(platform: Platform) -> None:
    deploy(platform, "env", "private", "--concurrency", "1", "--max-instances", "1")
    async with httpx.AsyncClient(timeout=60) as http:
        answers = await asyncio.gather(
            *(
                http.post(
                    f"{platform.http}/private", json={}, headers={"x-wasmfn-instance": "guess"}
                )
                for _ in range(40)
            )
        )
    assert {answer.status_code for answer in answers} == {200}
    tokens = [one.token for one in await endpoints(platform, "private")]
    assert tokens
    for answer in answers:
        text = answer.text + str(answer.headers)
        assert not any(token in text for token in tokens)
        assert "x-wasmfn-instance" not in answer.headers


async def test_an_environment_in_use_stays(platform: Platform) -> None:
    created = platform.cli("env", "create", "--name", "sort-wasm", "--image", example("sort"))
    assert created.returncode == 0, created.stderr.decode()
    created = platform.cli("fn", "create", "--name", "by-env", "--env", "sort-wasm")
    assert created.returncode == 0, created.stderr.decode()
    refused = platform.cli("env", "delete", "sort-wasm")
    assert refused.returncode == 7
    assert b"used by by-env" in refused.stderr
    url = ("--url", "/by-env", "--method", "POST", "--function", "by-env")
    assert platform.cli("route", "create", *url).returncode == 0
    answer = await post(platform, "/by-env", args=["9", "8"])
    assert answer.json()["output"] == ["8 9"]


async def test_a_route_may_come_before_its_function(platform: Platform) -> None:
    async with platform.nats() as client:
        route = Key("route", "default", "early")
        spec = RouteSpec(function="latecomer", path="/early")
        await client.wait_active({route: await client.publish(route, spec)}, 60, or_waiting=True)
        early = await post(platform, "/early")
        assert early.status_code == 503
        module = Module((await client.put_module(bytes_of("hello"), "x")).sha256)
        function = Key("function", "default", "latecomer")
        revision = await client.publish(
            function, FunctionSpec(module=module, limits=Limits(timeout_s=5))
        )
        await client.wait_active({function: revision}, 60)
    assert (await post(platform, "/early")).status_code == 200
