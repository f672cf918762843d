"""Calls that nobody waits for, as their clients see them: HTTP, the CLI, timers and NATS."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx

from tests.scenarios.caller import deploy, example
from tests.scenarios.platforms.protocol import STREAM, Platform
from tests.scenarios.story import DEADLINE_S, Story

ASYNC = {"prefer": "respond-async"}
SORTED = "1 2"


async def accepted(platform: Platform, path: str, **headers: str) -> str:
    """Have a call of `path` accepted, and return the URL that tells of it."""
    body = {"args": ["2", "1"]}
    async with httpx.AsyncClient(timeout=60) as http:
        answer = await http.post(platform.http + path, json=body, headers=ASYNC | headers)
    assert answer.status_code == 202, answer.text
    return platform.http + answer.headers["location"]


async def ended(url: str, *states: str) -> dict[str, Any]:
    """Return what a location tells once it is in one of `states`."""
    async with asyncio.timeout(DEADLINE_S), httpx.AsyncClient(timeout=60) as http:
        while (told := (await http.get(url)).json())["state"] not in states:
            pass
    return dict(told)


def cli(platform: Platform, *words: str) -> str:
    done = platform.cli(*words)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


async def test_an_accepted_call_is_done_and_its_answer_is_at_its_location(
    platform: Platform,
) -> None:
    deploy(platform, "sort", "deferred")
    url = await accepted(platform, "/deferred", **{"idempotency-key": "deferred-1"})
    told = await ended(url, "done", "dead")
    assert told["state"] == "done", told
    assert json.loads(told["result"]["body"])["output"] == [SORTED]
    assert await accepted(platform, "/deferred", **{"idempotency-key": "deferred-1"}) == url
    async with httpx.AsyncClient() as http:
        answer = await http.get(url + "/result")
    assert answer.json()["output"] == [SORTED]
    by_cli = cli(platform, "invoke", "deferred", "2", "1", "--async").strip()
    assert (await ended(by_cli, "done", "dead"))["state"] == "done"
    waited = cli(platform, "invoke", "deferred", "2", "1", "--async", "--wait")
    assert waited.splitlines()[-1] == SORTED


async def test_what_always_fails_is_tried_again_and_a_dead_letter_that_can_go_back(
    platform: Platform, tmp_path: Path
) -> None:
    file = tmp_path / "failing.yaml"

    def apply(module: str) -> None:
        file.write_text(
            f"{{kind: function, name: failing, module: {{file: {example(module)}}},"
            " asynchronous: {retry: {attempts: 3, first_delay_s: 0.2}}}\n---\n"
            "{kind: route, name: failing, function: failing, path: /failing, methods: [POST]}\n"
        )
        cli(platform, "apply", "-f", str(file))

    apply("exit3")
    url = await accepted(platform, "/failing")
    dead = await ended(url, "dead")
    assert [attempt["outcome"] for attempt in dead["attempts"]] == ["failed"] * 3
    number = url.rpartition("/")[2]
    assert cli(platform, "dead", "list", "--function", "failing", "-o", "name").split() == [number]
    apply("sort")
    cli(platform, "dead", "redrive", "failing", number)
    done = await ended(url, "done")
    assert json.loads(done["result"]["body"])["output"] == [SORTED]
    assert cli(platform, "dead", "list", "--function", "failing", "-o", "name").split() == []


async def test_what_waits_for_its_turn_is_cancelled_and_what_runs_ends(
    platform: Platform, tmp_path: Path
) -> None:
    file = tmp_path / "single.yaml"
    file.write_text(
        f"{{kind: function, name: single, module: {{file: {example('sleepy')}}},"
        " asynchronous: {concurrency: 1}}\n---\n"
        "{kind: route, name: single, function: single, path: /single, methods: [POST]}\n"
    )
    cli(platform, "apply", "-f", str(file))
    call = ("invoke", "single", "8", "--async")
    urls = [cli(platform, *call).strip() for _ in range(2)]
    await ended(urls[0], "running")
    cli(platform, "invocations", "cancel", "single", urls[1].rpartition("/")[2])
    assert (await ended(urls[1], "cancelled"))["attempts"] == []
    async with httpx.AsyncClient(timeout=60) as http:
        assert (await http.delete(urls[0])).status_code == 202
    assert (await ended(urls[0], "done", "cancelled"))["state"] == "cancelled"
    cli(platform, "dead", "prune", "--older-than", "1d")


async def test_a_timer_calls_its_function_when_it_is_due(platform: Platform) -> None:
    deploy(platform, "hello", "timed")
    async with platform.nats() as client:
        story = Story(client, "timed")
        every_second = ("--cron", "* * * * * *", "--function", "timed")
        cli(platform, "timer", "create", "--name", "often", *every_second)
        for _ in range(2):
            await story.until("invocation-done")
            story.goes_on()
        (*_, told) = await story.until("invocation-done")
        assert told.fields["origin"] == "timer"
        cli(platform, "timer", "delete", "often")


async def test_a_message_on_a_subject_is_a_call_and_its_output_the_reply(
    platform: Platform,
) -> None:
    deploy(platform, "sort", "asked")
    create = ("subscription", "create", "--name", "questions", "--subject", "app.ask.*")
    cli(platform, *create, "--function", "asked", "--reply")
    async with platform.application() as bus:
        answer = None
        async with asyncio.timeout(DEADLINE_S):
            # The routers take a moment to subscribe; until then nobody is there.
            while answer is None:
                try:
                    answer = await bus.nc.request("app.ask.me", b'{"args": ["2", "1"]}', timeout=10)
                except Exception:  # noqa: BLE001 - nats-py has no common class of them
                    await asyncio.sleep(0.2)
        assert json.loads(answer.data)["output"] == [SORTED]
        assert not bus.last_error
    cli(platform, "subscription", "delete", "questions")


async def test_each_message_of_a_stream_is_one_call(platform: Platform) -> None:
    deploy(platform, "sort", "ordered")
    create = ("subscription", "create", "--name", "orders", "--stream", STREAM)
    cli(platform, *create, "--subject", "app.kept.orders", "--function", "ordered")

    async def outputs() -> list[str]:
        """Return what the calls have answered that are done."""
        listed = ("invocations", "list", "--function", "ordered", "-o", "json")
        told = json.loads(await asyncio.to_thread(cli, platform, *listed))
        answers = [json.loads(one["answer"]["body"]) for one in told if one["state"] == "done"]
        return [answer["output"][0] for answer in answers]

    async with platform.application() as bus, asyncio.timeout(DEADLINE_S):
        # The routers take a moment to subscribe, and begin with what comes then.
        while SORTED not in await outputs():
            await bus.js.publish("app.kept.orders", b'{"args": ["2", "1"]}')
        await bus.js.publish("app.kept.orders", b'{"args": ["9", "8", "7"]}')
        while "7 8 9" not in (found := await outputs()):
            pass
        assert found.count("7 8 9") == 1
        assert not bus.last_error
    cli(platform, "subscription", "delete", "orders")
