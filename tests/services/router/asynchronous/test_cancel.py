"""Cancelling: what has not begun never will, what runs is told of truly, and nothing is lost."""

import asyncio
import json

import msgspec
import pytest

from schemas import subjects
from schemas.invocations import CancelReply, CancelRequest, Interrupt, Result
from schemas.specs import Destination, Retry
from tests.services.router.asynchronous.calls import accepted, dead_letters, ended, ready, told
from tests.services.router.clients import Response, eventually
from tests.services.router.instances import Call
from tests.services.router.platform import Platform, Router


async def cancel(router: Router, location: str) -> Response:
    response: Response = await router.request("DELETE", location)
    return response


async def queued(platform: Platform) -> int:
    return int((await platform.js.stream_info("INVOCATIONS")).state.messages)


async def is_empty(platform: Platform) -> bool:
    return await queued(platform) == 0


async def say(platform: Platform, location: str, **changes: object) -> None:
    """Change the word about an invocation that runs, as another router would."""
    subject = location.replace("/.wasmfn/invocations/", "wasmfn.results.").replace("/", ".")
    raw = await platform.js.get_last_msg("RESULTS", subject)
    word = msgspec.json.decode(raw.data or b"", type=Result)
    assert word.state == "running"
    changed = msgspec.structs.replace(word, **changes)
    await platform.js.publish(subject, msgspec.json.encode(changed))


class Gate:
    """An instance whose calls wait to be let through, and are answered then."""

    def __init__(self, status: str = "200 OK") -> None:
        self.begun = asyncio.Event()
        self.open = asyncio.Event()
        self.status = status

    async def __call__(self, call: Call) -> None:
        await call.read_body()
        self.begun.set()
        await self.open.wait()
        await call.answer(b"ok", self.status)

    async def has_begun(self) -> None:
        async with asyncio.timeout(30):
            await self.begun.wait()


async def test_what_waits_for_its_turn_is_cancelled_and_never_runs(platform: Platform) -> None:
    gate = Gate()
    router = await ready(platform, gate, concurrency=1)
    first = await accepted(router, b"first")
    await gate.has_begun()
    second, third = await accepted(router, b"second"), await accepted(router, b"third")
    answer = await cancel(router, second)
    assert answer.status == 200
    assert json.loads(answer.body)["state"] == "cancelled"
    assert await queued(platform) == 2
    assert (await cancel(router, second)).status == 409
    gate.open.set()
    for location in (first, third):
        assert (await ended(router, location))["state"] == "done"
    assert (await told(router, second))["state"] == "cancelled"
    assert [call.body for call in platform.instances[0].calls] == [b"first", b"third"]
    assert await queued(platform) == 0
    assert await dead_letters(platform) == []


async def test_between_two_attempts_it_is_cancelled_and_not_tried_again(platform: Platform) -> None:
    gate = Gate("500 A")
    gate.open.set()
    router = await ready(platform, gate, retry=Retry(attempts=3, first_delay_s=300))
    location = await accepted(router)

    async def waits() -> bool:
        return (await told(router, location))["state"] == "retrying"

    await eventually(waits)
    assert (await cancel(router, location)).status == 200
    end = await told(router, location)
    assert (end["state"], [a["status"] for a in end["attempts"]]) == ("cancelled", [500])
    assert end["next_attempt_at"] is None
    assert await queued(platform) == 0


@pytest.mark.parametrize("by_another", [False, True])
async def test_an_attempt_under_way_is_ended_and_nothing_follows(
    platform: Platform, by_another: bool
) -> None:
    begun, left = asyncio.Event(), asyncio.Event()

    async def hangs(call: Call) -> None:
        await call.read_body()
        begun.set()
        assert await call.peer.reader.read() == b""
        left.set()

    failed = Destination(subject="shop.failed")
    router = await ready(
        platform, hangs, timeout_s=300.0, retry=Retry(attempts=3, first_delay_s=0),
        on_failure=failed,
    )  # fmt: skip
    heard: asyncio.Queue[object] = asyncio.Queue()
    await platform.nc.subscribe("shop.failed", cb=heard.put)
    location = await accepted(router)
    async with asyncio.timeout(30):
        await begun.wait()
    asked = await platform.router() if by_another else router
    answer = await cancel(asked, location)
    assert answer.status == 202
    async with asyncio.timeout(60):
        await left.wait()
    end = await ended(router, location)
    assert end["state"] == "cancelled"
    assert [(a["status"], a["outcome"]) for a in end["attempts"]] == [(499, "failed")]
    assert "its call was ended" in end["attempts"][0]["error"]
    counted = 'async_attempts_total{function="f",namespace="default",outcome="%s"}'
    assert await router.metric(counted % "cancelled") == 1
    assert await router.metric(counted % "failed") == 0
    await eventually(lambda: is_empty(platform))
    assert (await cancel(router, location)).status == 409
    assert len(platform.instances[0].calls) == 1
    assert await dead_letters(platform) == []
    assert heard.empty()


async def test_what_waits_for_an_instance_is_ended(platform: Platform) -> None:
    gate = Gate()
    await platform.function()
    await platform.route()
    await platform.instance(handler=gate, concurrency=1)

    async def never(_: object) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError

    await platform.scheduler(never)
    router = await platform.router(park_s="300")
    first = await accepted(router, b"first")
    await gate.has_begun()
    second = await accepted(router, b"second")

    async def waits() -> bool:
        return (await told(router, second))["state"] == "running"

    await eventually(waits)
    assert (await cancel(router, second)).status == 202
    assert (await ended(router, second))["state"] == "cancelled"
    gate.open.set()
    assert (await ended(router, first))["state"] == "done"
    assert [call.body for call in platform.instances[0].calls] == [b"first"]


@pytest.mark.parametrize(("status", "state"), [("200 A", "done"), ("500 A", "cancelled")])
async def test_an_attempt_that_nobody_told_ends_by_itself_and_is_the_last(
    platform: Platform, status: str, state: str
) -> None:
    gate = Gate(status)
    failed = Destination(subject="shop.failed")
    router = await ready(
        platform, gate, retry=Retry(attempts=3, first_delay_s=0), on_failure=failed
    )
    heard: asyncio.Queue[object] = asyncio.Queue()
    await platform.nc.subscribe("shop.failed", cb=heard.put)
    location = await accepted(router)
    await gate.has_begun()
    # As a router does that loses NATS before it can tell the others.
    await say(platform, location, unwanted=True)
    gate.open.set()
    end = await ended(router, location)
    assert (end["state"], len(end["attempts"])) == (state, 1)
    assert len(platform.instances[0].calls) == 1
    assert await dead_letters(platform) == []
    assert heard.empty()


async def test_an_attempt_that_outlived_its_lease_is_ended_though_another_one_failed(
    platform: Platform,
) -> None:
    begun, left = asyncio.Event(), asyncio.Event()

    async def hangs(call: Call) -> None:
        await call.read_body()
        begun.set()
        assert await call.peer.reader.read() == b""
        left.set()

    router = await ready(platform, hangs, timeout_s=300.0)
    location = await accepted(router)
    async with asyncio.timeout(30):
        await begun.wait()
    # As another router does, whose attempt beside this one has failed.
    await say(platform, location, state="retrying")
    assert (await cancel(router, location)).status == 200
    async with asyncio.timeout(60):
        await left.wait()
    await eventually(lambda: is_empty(platform))
    assert (await told(router, location))["state"] == "cancelled"
    assert await dead_letters(platform) == []


async def test_a_success_that_comes_after_the_end_changes_nothing(platform: Platform) -> None:
    gate = Gate()
    router = await ready(platform, gate, on_success=Destination(subject="shop.done"))
    heard: asyncio.Queue[object] = asyncio.Queue()
    await platform.nc.subscribe("shop.done", cb=heard.put)
    location = await accepted(router)
    await gate.has_begun()
    # As a router does that cannot reach the one whose attempt this is.
    await say(platform, location, state="cancelled")
    gate.open.set()
    await eventually(lambda: is_empty(platform))
    assert (await told(router, location))["state"] == "cancelled"
    await platform.nc.flush()
    assert heard.empty()


async def test_who_is_told_needs_no_note_to_end_without_a_dead_letter(platform: Platform) -> None:
    gate = Gate()
    failed = Destination(subject="shop.failed")
    router = await ready(platform, gate, on_failure=failed)
    heard: asyncio.Queue[object] = asyncio.Queue()
    await platform.nc.subscribe("shop.failed", cb=heard.put)
    location = await accepted(router)
    await gate.has_begun()
    # As if NATS had lost the word by the time that the router looks.
    await platform.js.purge_stream("RESULTS")
    namespace, function, number = location.split("/")[-3:]
    subject = subjects.INTERRUPTS.subject(namespace=namespace, function=function, id=number)
    await platform.nc.publish(subject, msgspec.json.encode(Interrupt(1)))
    await eventually(lambda: is_empty(platform))
    assert (await told(router, location))["state"] == "cancelled"
    assert await dead_letters(platform) == []
    await platform.nc.flush()
    assert heard.empty()


async def test_what_has_ended_cannot_be_cancelled(platform: Platform) -> None:
    router = await ready(platform)
    location = await accepted(router)
    await ended(router, location)
    refused = await cancel(router, location)
    assert refused.status == 409
    assert "done" in refused.problem["detail"]
    assert (await told(router, location))["state"] == "done"


async def test_people_cancel_over_the_bus(platform: Platform) -> None:
    gate = Gate()
    router = await ready(platform, gate, concurrency=1)
    await accepted(router)
    await gate.has_begun()
    location = await accepted(router)
    subject = subjects.CANCEL_REQUESTS.subject(namespace="default", function="f")

    async def ask(number: str) -> CancelReply:
        asked = msgspec.json.encode(CancelRequest(number))
        raw = await platform.nc.request(subject, asked, timeout=20)
        return msgspec.json.decode(raw.data, type=CancelReply)

    number = location.rpartition("/")[2]
    assert (await ask(number)).outcome == "cancelled"
    assert (await ask(number)).outcome == "ended"
    assert (await ask("0" * 32)).outcome == "missing"
    assert (await told(router, location))["state"] == "cancelled"
    gate.open.set()


async def test_a_cancelled_call_that_is_still_queued_is_not_run(platform: Platform) -> None:
    gate = Gate()
    router = await ready(platform, gate, concurrency=1)
    await accepted(router)
    await gate.has_begun()
    location = await accepted(router, b"again")
    number = location.rpartition("/")[2]
    subject = f"wasmfn.invocations.default.f.{number}"
    raw = await platform.js.get_last_msg("INVOCATIONS", subject)
    assert (await cancel(router, location)).status == 200
    # As if the router had died before it took the message away.
    await platform.js.publish(subject, raw.data or b"")
    gate.open.set()
    await eventually(lambda: is_empty(platform))
    assert len(platform.instances[0].calls) == 1
    assert (await told(router, location))["state"] == "cancelled"
