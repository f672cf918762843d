"""Delivering: at least once, through every crash; done, or dead and found again."""

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from schemas import subjects
from schemas.invocations import DeadLetter, DeadReply, DeadRequest
from schemas.specs import Asynchronous, Destination, Retry
from tests.conftest import NatsServer
from tests.services.router.asynchronous.calls import (
    ASYNC,
    accepted,
    dead_letters,
    ended,
    hangs_first,
    ready,
    told,
)
from tests.services.router.clients import eventually, request
from tests.services.router.instances import Call
from tests.services.router.platform import Platform

AT_ONCE = Retry(attempts=3, first_delay_s=0)


def answering(*statuses: str) -> Callable[[Call], Awaitable[None]]:
    """Return an instance that answers its calls so, the last one for ever."""

    async def answer(call: Call) -> None:
        await call.read_body()
        n = len(call.instance.calls)
        await call.answer(b"ok", statuses[min(n, len(statuses)) - 1])

    return answer


async def test_a_failure_is_tried_again_until_it_succeeds(platform: Platform) -> None:
    router = await ready(platform, answering("500 A", "503 B", "200 C"), retry=AT_ONCE)
    done = await ended(router, await accepted(router))
    assert done["state"] == "done"
    assert [(a["number"], a["status"]) for a in done["attempts"]] == [(1, 500), (2, 503), (3, 200)]
    assert await dead_letters(platform) == []


async def test_what_fails_to_the_last_is_a_dead_letter_with_its_request(platform: Platform) -> None:
    router = await ready(platform, answering("500 A"), retry=AT_ONCE)
    location = await accepted(router, b"the body")
    told = await ended(router, location)
    assert told["state"] == "dead"
    assert len(told["attempts"]) == 3
    (letter,) = await dead_letters(platform)
    assert letter.reason == "attempts-spent"
    assert letter.invocation is not None
    assert letter.invocation.body == b"the body"
    assert location.endswith(letter.id)
    assert (await platform.js.stream_info("INVOCATIONS")).state.messages == 0


@pytest.mark.parametrize(
    ("settings", "ttl"),
    [({}, "1209600s"), ({"dead_letter_s": "7200"}, "7200s"), ({"dead_letter_s": "0"}, None)],
)
async def test_a_dead_letter_is_kept_for_two_weeks_or_what_the_router_was_told(
    platform: Platform, settings: dict[str, str], ttl: str | None
) -> None:
    router = await ready(platform, answering("500 A"), retry=Retry(attempts=1), settings=settings)
    assert (await ended(router, await accepted(router)))["state"] == "dead"
    (letter,) = await dead_letters(platform)
    subject = subjects.DEAD.subject(namespace="default", function="f", id=letter.id)
    raw = await platform.js.get_last_msg("DEAD", subject)
    assert (raw.headers or {}).get("Nats-TTL") == ttl


async def test_a_dead_letter_whose_time_is_over_is_gone_by_itself(platform: Platform) -> None:
    router = await ready(
        platform, answering("500 A"), retry=Retry(attempts=1), settings={"dead_letter_s": "1"}
    )
    location = await accepted(router)
    assert (await ended(router, location))["state"] == "dead"
    assert (await platform.js.stream_info("DEAD")).state.last_seq == 1

    async def gone() -> bool:
        return (await platform.js.stream_info("DEAD")).state.messages == 0

    await eventually(gone, 60.0)
    assert (await told(router, location))["state"] == "dead"


async def test_a_final_status_is_not_tried_again(platform: Platform) -> None:
    router = await ready(platform, answering("404 A"), retry=AT_ONCE)
    told = await ended(router, await accepted(router))
    assert (told["state"], len(told["attempts"])) == ("dead", 1)
    (letter,) = await dead_letters(platform)
    assert letter.reason == "final-status"


async def test_a_dead_letter_goes_back_and_ends_at_the_same_location(platform: Platform) -> None:
    router = await ready(platform, answering("404 A", "404 B", "200 C"), retry=AT_ONCE)
    location = await accepted(router)
    await ended(router, location)
    for state in ("dead", "done"):
        (letter,) = await dead_letters(platform)
        subject = subjects.DEAD_REQUESTS.subject(namespace="default", function="f")
        asked = msgspec.json.encode(DeadRequest(letter.id, "redrive"))
        raw = await platform.nc.request(subject, asked, timeout=20)
        reply = msgspec.json.decode(raw.data, type=DeadReply)
        assert (reply.done, reply.location) == (True, location)
        assert (await ended(router, location))["state"] == state
    assert await dead_letters(platform) == []


async def test_dead_letters_are_listed_read_redriven_and_thrown_away_over_http(
    platform: Platform,
) -> None:
    router = await ready(platform, answering("404 A", "404 B", "200 C"), retry=AT_ONCE)
    locations = [await accepted(router, b"secret body") for _ in range(2)]
    for location in locations:
        await ended(router, location)
    listed = await request(router.admin, "GET", "/dead?namespace=default")
    letters = json.loads(listed.body)
    assert {locations[0], locations[1]} == {
        f"/.wasmfn/invocations/default/f/{letter['id']}" for letter in letters
    }
    assert b"secret body" not in listed.body
    place = f"/dead/default/f/{letters[0]['id']}"
    assert json.loads((await request(router.admin, "GET", place)).body)["reason"] == "final-status"
    from_a_page = {"origin": "http://evil.example"}
    refused = await request(router.admin, "POST", place + "/redrive", b"", from_a_page)
    assert refused.status == 403
    assert (await request(router.admin, "POST", place + "/redrive", b"")).status == 200
    other = f"/dead/default/f/{letters[1]['id']}"
    assert (await request(router.admin, "DELETE", other)).status == 200
    assert (await request(router.admin, "DELETE", other)).status == 409
    assert await dead_letters(platform) == []
    assert (await request(router.port, "GET", "/dead")).status == 404


async def test_a_router_killed_in_the_middle_costs_an_attempt_and_no_invocation(
    platform: Platform,
) -> None:
    begun = asyncio.Event()
    doomed = await ready(platform, hangs_first(begun), timeout_s=0.5)
    location = await accepted(doomed)
    async with asyncio.timeout(30):
        await begun.wait()
    doomed.signal(signal.SIGKILL)
    await doomed.ended()
    router = await platform.router()
    assert (await told(router, location))["state"] == "running"
    done = await ended(router, location)
    assert done["state"] == "done"
    assert [(a["number"], a["outcome"]) for a in done["attempts"]] == [(1, "lost"), (2, "done")]


async def test_a_router_killed_in_the_last_attempt_leaves_a_dead_letter(platform: Platform) -> None:
    begun = asyncio.Event()

    async def hangs(call: Call) -> None:
        begun.set()
        await asyncio.Event().wait()

    doomed = await ready(platform, hangs, timeout_s=0.5, retry=Retry(attempts=1))
    location = await accepted(doomed)
    async with asyncio.timeout(30):
        await begun.wait()
    doomed.signal(signal.SIGKILL)
    await doomed.ended()
    router = await platform.router()
    told = await ended(router, location)
    assert (told["state"], told["attempts"][0]["outcome"]) == ("dead", "lost")
    assert len(await dead_letters(platform)) == 1
    assert len(platform.instances[0].calls) == 1


async def test_a_router_that_ends_hands_its_work_over_at_once(platform: Platform) -> None:
    begun = asyncio.Event()
    # A lease of an hour: if it had to run out, this would not end.
    leaving = await ready(platform, hangs_first(begun), timeout_s=3600.0)
    location = await accepted(leaving)
    async with asyncio.timeout(30):
        await begun.wait()
    leaving.signal(signal.SIGTERM)
    assert await leaving.ended() == 0
    router = await platform.router()
    assert (await ended(router, location))["state"] == "done"


async def test_nothing_accepted_is_lost_when_nats_dies_and_comes_back(
    platform: Platform, nats_server: NatsServer
) -> None:
    router = await ready(platform, retry=Retry(first_delay_s=0))
    locations = [await accepted(router, str(n).encode()) for n in range(30)]
    await platform.disconnect()
    nats_server.restart()
    await platform.connect()

    async def accepts() -> bool:
        return (await router.request("POST", "/f", b"x", ASYNC)).status == 202

    await eventually(accepts)
    for location in locations:
        assert (await ended(router, location))["state"] == "done"


async def test_a_function_that_fails_does_not_starve_another(platform: Platform) -> None:
    async def hangs(call: Call) -> None:
        await asyncio.Event().wait()

    router = await ready(platform, hangs, concurrency=4, timeout_s=600.0)
    for _ in range(40):
        await accepted(router)
    await platform.function("g", asynchronous=Asynchronous(concurrency=2))
    await platform.route("g", function="g")
    await platform.instance("g")

    async def answers() -> bool:
        return (await router.request("POST", "/g", b"x")).status == 200

    await eventually(answers)
    for _ in range(20):
        assert (await ended(router, await accepted(router, path="/g")))["state"] == "done"
    assert len(platform.instances[0].calls) <= 4


async def test_an_outcome_goes_on_to_a_function_and_to_a_subject(platform: Platform) -> None:
    heard: asyncio.Queue[Any] = asyncio.Queue()
    await platform.nc.subscribe("shop.>", cb=heard.put)
    router = await ready(
        platform,
        answering("200 A", "404 B"),
        on_success=Destination(function="next"),
        on_failure=Destination(subject="shop.failed"),
    )
    await platform.function(
        "next", asynchronous=Asynchronous(on_success=Destination(subject="shop.done"))
    )
    following = await platform.instance("next")
    await ended(router, await accepted(router))
    async with asyncio.timeout(30):
        message = await heard.get()
    assert (message.subject, message.data) == ("shop.done", b"ok")
    assert following.calls[0].body == b"ok"
    location = await accepted(router)
    assert (await ended(router, location))["state"] == "dead"
    async with asyncio.timeout(30):
        message = await heard.get()
    assert message.subject == "shop.failed"
    assert location.endswith(json.loads(message.data)["id"])


async def test_functions_that_call_each_other_come_to_an_end(platform: Platform) -> None:
    router = await ready(platform, on_success=Destination(function="f"))
    await ended(router, await accepted(router))
    await eventually(lambda: len(platform.instances[0].calls) == 9)
    await eventually(lambda: _is_empty(platform))
    assert len(platform.instances[0].calls) == 9


async def _is_empty(platform: Platform) -> bool:
    return (await platform.js.stream_info("INVOCATIONS")).state.messages == 0


async def test_what_is_queued_for_a_function_that_is_gone_becomes_dead_letters(
    platform: Platform,
) -> None:
    router = await ready(platform, answering("500 A"), retry=Retry(first_delay_s=1, jitter=0))
    location = await accepted(router)
    await eventually(lambda: bool(platform.instances[0].calls))
    subject = subjects.ACTIVE.subject(kind="function", namespace="default", name="f")
    await platform.delete(subject)
    told = await ended(router, location)
    assert told["state"] == "dead"
    assert told["attempts"][-1]["status"] == 503


@pytest.mark.parametrize("payload", [b"no json", b"{}"])
async def test_what_cannot_be_read_is_a_dead_letter_too(platform: Platform, payload: bytes) -> None:
    await ready(platform)
    await platform.js.publish("wasmfn.invocations.default.f.x", payload)

    async def buried() -> bool:
        return bool(await dead_letters(platform))

    await eventually(buried)
    (letter,) = await dead_letters(platform)
    assert (letter.reason, letter.unreadable) == ("unreadable", payload)
    assert isinstance(letter, DeadLetter)


async def test_an_invocation_stored_without_a_consumer_is_found(platform: Platform) -> None:
    router = await ready(platform)
    location = await accepted(router)
    await ended(router, location)
    await platform.js.delete_consumer("INVOCATIONS", "default_f")
    assert (await ended(router, await accepted(router)))["state"] == "done"


async def test_a_dead_letter_that_finds_no_room_keeps_its_invocation_in_the_queue(
    platform: Platform,
) -> None:
    router = await ready(platform, answering("404 A"))
    config = (await platform.js.stream_info("DEAD")).config
    await platform.js.update_stream(config.evolve(max_bytes=1024))
    location = await accepted(router, b"x" * 4000)
    await eventually(lambda: bool(platform.instances[0].calls))
    # Long enough for several refusals: each is a second apart.
    await asyncio.sleep(2.5)
    assert (await platform.js.stream_info("INVOCATIONS")).state.messages == 1
    assert (await told(router, location))["state"] == "running"
    await platform.js.update_stream(config)
    assert (await ended(router, location))["state"] == "dead"
    assert len(await dead_letters(platform)) == 1
    assert len(platform.instances[0].calls) == 1


async def test_a_server_that_lost_its_data_takes_calls_again(
    platform: Platform, nats_server: NatsServer
) -> None:
    router = await ready(platform)
    await ended(router, await accepted(router))
    await platform.disconnect()
    await asyncio.to_thread(nats_server.lose_data)
    # In a platform the leading scheduler makes the streams anew.
    await platform.connect()

    async def accepts() -> bool:
        return (await router.request("POST", "/f", b"x", ASYNC)).status == 202

    await eventually(accepts, 60.0)
    assert (await ended(router, await accepted(router)))["state"] == "done"
