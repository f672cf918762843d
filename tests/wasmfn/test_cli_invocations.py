"""Invocations that nobody waits for, and dead letters, as a user types them."""

import contextlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import nats.errors
import pytest
import yaml

from tests.scenarios.platforms.local import LocalPlatform
from tests.services.router.clients import eventually

EXAMPLES = Path(__file__).parents[2] / "examples"
DOCUMENT = """
kind: function
name: {name}
module: {{file: {module}}}
asynchronous:
  retry: {{attempts: 2, first_delay_s: 0}}
"""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPlatform]:
    with contextlib.closing(LocalPlatform(tmp_path_factory.mktemp("cli"))) as platform:
        platform.start()
        yield platform


def ok(platform: LocalPlatform, *arguments: str, stdin: bytes = b"") -> str:
    done = platform.cli(*arguments, stdin=stdin)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def deploy(platform: LocalPlatform, name: str, example: str) -> None:
    module = EXAMPLES / example / f"{example}.wasm"
    ok(platform, "apply", "-f", "-", stdin=DOCUMENT.format(name=name, module=module).encode())
    ok(platform, "route", "create", "--url", f"/{name}", "--function", name)


def until_state(platform: LocalPlatform, name: str, identity: str, state: str) -> dict[str, object]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        told = json.loads(ok(platform, "invocations", "get", name, identity, "-o", "json"))
        if told["state"] == state:
            return dict(told)
    raise AssertionError(f"it is {told['state']}, not {state}")


def test_invoke_waits_or_says_where_the_result_will_be(platform: LocalPlatform) -> None:
    deploy(platform, "sort", "sort")
    assert ok(platform, "invoke", "sort", "3", "1", "2") == "1 2 3\n"
    said = ok(platform, "invoke", "sort", "9", "8", "--async", "--idempotency-key", "k").strip()
    assert re.fullmatch(rf"{platform.http}/\.wasmfn/invocations/default/sort/[0-9a-f]{{32}}", said)
    again = ok(platform, "invoke", "sort", "9", "8", "--async", "--idempotency-key", "k")
    assert again.strip() == said
    identity = said.rpartition("/")[2]
    told = until_state(platform, "sort", identity, "done")
    assert json.loads(told["answer"]["body"])["output"] == ["8 9"]  # type: ignore[index]
    assert identity in ok(platform, "invocations", "list", "--function", "sort", "-o", "name")
    assert "done" in ok(platform, "invocations", "get", "sort", identity)
    missing = platform.cli("invocations", "get", "sort", "0" * 32)
    assert missing.returncode == 4


def test_dead_letters_are_listed_shown_sent_back_and_thrown_away(platform: LocalPlatform) -> None:
    deploy(platform, "traps", "trap")
    for _ in range(2):
        said = ok(platform, "invoke", "traps", "--async").strip()
        until_state(platform, "traps", said.rpartition("/")[2], "dead")
    one, other = ok(platform, "dead", "list", "--function", "traps", "-o", "name").split()
    assert "attempts-spent" in ok(platform, "dead", "list")
    letter = yaml.safe_load(ok(platform, "dead", "get", "traps", one))
    assert letter["reason"] == "attempts-spent"
    assert [attempt["status"] for attempt in letter["attempts"]] == [500, 500]
    assert json.loads(letter["invocation"]["body"]) == {"args": []}
    ok(platform, "dead", "discard", "traps", other)
    assert ok(platform, "dead", "list", "-o", "name").split() == [one]
    ok(platform, "dead", "redrive", "traps", one)
    until_state(platform, "traps", one, "dead")
    assert platform.cli("dead", "redrive", "traps", other).returncode == 5
    assert platform.cli("dead", "get", "traps", other).returncode == 4
    ok(platform, "dead", "discard", "traps", "--all")
    assert json.loads(ok(platform, "dead", "list", "-o", "json")) == []


def test_waiting_prints_the_answer_or_says_how_it_ended(platform: LocalPlatform) -> None:
    deploy(platform, "awaited", "sort")
    deploy(platform, "fails", "trap")
    assert platform.cli("invoke", "awaited", "2", "1", "--wait").returncode == 2
    done = platform.cli("invoke", "awaited", "2", "1", "--async", "--wait")
    assert done.returncode == 0, done.stderr.decode()
    location, output = done.stdout.decode().splitlines()
    assert output == "1 2"
    identity = location.rpartition("/")[2]
    assert ok(platform, "invocations", "wait", "awaited", identity) == "1 2\n"
    raw = json.loads(ok(platform, "invocations", "wait", "awaited", identity, "--raw"))
    assert raw["output"] == ["1 2"]
    failed = platform.cli("invoke", "fails", "--async", "--wait")
    assert failed.returncode == 1
    assert b"it is dead: 2 attempts failed" in failed.stderr
    assert b"wasmfn dead get fails" in failed.stderr
    ok(platform, "dead", "discard", "fails", "--all")
    assert platform.cli("invocations", "wait", "awaited", "0" * 32).returncode == 4


def test_what_waits_its_turn_is_cancelled_and_what_runs_is_ended(
    platform: LocalPlatform,
) -> None:
    module = EXAMPLES / "sleepy" / "sleepy.wasm"
    alone = DOCUMENT.format(name="sleeper", module=module) + "  concurrency: 1\n"
    ok(platform, "apply", "-f", "-", stdin=alone.encode())
    ok(platform, "route", "create", "--url", "/sleeper", "--function", "sleeper")
    call = ("invoke", "sleeper", "20", "--async")
    first, second = (ok(platform, *call).strip().rpartition("/")[2] for _ in range(2))
    until_state(platform, "sleeper", first, "running")
    late = platform.cli("invocations", "wait", "sleeper", second, "--timeout", "0.5s")
    assert late.returncode == 6
    assert b"goes on" in late.stderr
    ok(platform, "invocations", "cancel", "sleeper", second)
    assert until_state(platform, "sleeper", second, "cancelled")["attempts"] == []
    assert second in ok(platform, "invocations", "list", "--state", "cancelled", "-o", "name")
    running = platform.cli("invocations", "cancel", "sleeper", first)
    assert running.returncode == 0
    assert b"is being ended" in running.stderr
    attempts = until_state(platform, "sleeper", first, "cancelled")["attempts"]
    assert [attempt["status"] for attempt in attempts] == [499]
    assert platform.cli("invocations", "cancel", "sleeper", first).returncode == 5
    assert platform.cli("invocations", "cancel", "sleeper", "0" * 32).returncode == 4
    cancelled = platform.cli("invocations", "wait", "sleeper", second)
    assert cancelled.returncode == 1
    assert b"it is cancelled" in cancelled.stderr


def test_what_is_cancelled_in_mid_run_leaves_its_place_to_others(platform: LocalPlatform) -> None:
    module = EXAMPLES / "burn" / "burn.wasm"
    alone = DOCUMENT.format(name="burner", module=module)
    alone += "scaling: {max_instances: 1, concurrency: 1}\nlimits: {timeout_s: 3600}\n"
    ok(platform, "apply", "-f", "-", stdin=alone.encode())
    ok(platform, "route", "create", "--url", "/burner", "--function", "burner")
    short = ok(platform, "invoke", "burner", "1")
    endless = ok(platform, "invoke", "burner", "999999999999999", "--async").strip()
    identity = endless.rpartition("/")[2]
    until_state(platform, "burner", identity, "running")
    ok(platform, "invocations", "cancel", "burner", identity)
    until_state(platform, "burner", identity, "cancelled")
    assert ok(platform, "invoke", "burner", "1") == short


def test_old_dead_letters_are_pruned_and_the_others_stay(platform: LocalPlatform) -> None:
    deploy(platform, "pruned", "trap")
    for _ in range(2):
        assert platform.cli("invoke", "pruned", "--async", "--wait").returncode == 1
    assert platform.cli("dead", "prune").returncode == 2
    young = platform.cli("dead", "prune", "--older-than", "1h")
    assert b"threw away 0" in young.stderr
    other = platform.cli("dead", "prune", "--older-than", "0s", "--function", "sort")
    assert b"threw away 0" in other.stderr
    assert len(ok(platform, "dead", "list", "--function", "pruned", "-o", "name").split()) == 2
    old = platform.cli("invocations", "prune", "--older-than", "0s", "--function", "pruned")
    assert b"threw away 2" in old.stderr
    assert ok(platform, "dead", "list", "--function", "pruned", "-o", "name").split() == []


def test_a_timer_calls_a_function_and_a_changed_one_is_judged(platform: LocalPlatform) -> None:
    deploy(platform, "timed", "sort")
    body = '{"args": ["2", "1"]}'
    ok(
        platform, "timer", "create", "tick", "--cron", "* * * * * *", "--function", "timed",
        "--body", body,
    )  # fmt: skip
    wrong = platform.cli("timer", "update", "tick", "--timezone", "Mars/Base")
    assert wrong.returncode == 5
    assert b"Europe/Berlin" in wrong.stderr
    deadline = time.monotonic() + 60
    done: list[dict[str, object]] = []
    while not done and time.monotonic() < deadline:
        found = json.loads(ok(platform, "invocations", "list", "--function", "timed", "-o", "json"))
        done = [one for one in found if one["state"] == "done"]
    assert done
    assert (done[0]["origin"], done[0]["origin_name"]) == ("timer", "tick")
    assert json.loads(done[0]["answer"]["body"])["output"] == ["1 2"]  # type: ignore[index]
    ok(platform, "timer", "update", "tick", "--timezone", "UTC", "--pause")
    assert "(paused)" in ok(platform, "timer", "list")
    exported = ok(platform, "export")
    assert "kind: timer" in exported
    ok(platform, "timer", "delete", "tick")
    ok(platform, "apply", "-f", "-", stdin=exported.encode())
    assert "* * * * * *" in ok(platform, "timer", "get", "tick")
    ok(platform, "timer", "delete", "tick")


async def test_a_subscription_answers_a_message_with_the_output(platform: LocalPlatform) -> None:
    deploy(platform, "asked", "sort")
    ok(
        platform, "subscription", "create", "ask", "--subject", "ask.*", "--function", "asked",
        "--reply",
    )  # fmt: skip
    refused = platform.cli(
        "subscription", "create", "spy", "--subject", "wasmfn.>", "--function", "asked"
    )
    assert refused.returncode == 2
    assert "ask.*" in ok(platform, "subscription", "list")
    async with platform.nats() as client:
        question = b'{"args": ["5", "4"]}'
        answers: list[bytes] = []

        async def answered() -> bool:
            try:
                reply = await client.bus.nc.request("ask.me", question, timeout=20)
            except nats.errors.NoRespondersError:
                return False  # The routers have not heard of it yet.
            answers.append(reply.data)
            return True

        await eventually(answered, 60.0)
    assert json.loads(answers[0])["output"] == ["4 5"]
    ok(platform, "subscription", "delete", "ask")
