"""Full streams: what is accepted is not lost, nothing more is taken, and it goes on by itself."""

import asyncio
import json

from nats.aio.msg import Msg
from nats.js.api import StreamConfig

from schemas.specs import Retry
from tests.services.router.asynchronous.calls import ASYNC, accepted, dead_letters, ended, ready
from tests.services.router.asynchronous.test_subscriptions import subscribe
from tests.services.router.clients import Response, eventually, request
from tests.services.router.instances import Call
from tests.services.router.platform import Platform, Router

SMALL = 192 * 1024
BODY = b"x" * 4000


async def limit(platform: Platform, stream: str, max_bytes: int) -> StreamConfig:
    """Bound a stream, and return how it was."""
    config = (await platform.js.stream_info(stream)).config
    await platform.js.update_stream(config.evolve(max_bytes=max_bytes))
    return config


async def offer(router: Router, body: bytes = BODY) -> Response:
    response: Response = await router.request("POST", "/f", body, ASYNC)
    return response


async def fill(router: Router) -> tuple[list[str], Response]:
    """Offer calls until one is refused; return the locations of the others, and the refusal."""
    locations = []
    async with asyncio.timeout(60):
        while (answer := await offer(router)).status == 202:
            locations.append(answer.headers["location"])
    return locations, answer


async def takes(router: Router) -> bool:
    return (await offer(router)).status == 202


async def answers_much(call: Call) -> None:
    await call.read_body()
    await call.answer(b"y" * 4000)


async def fails(call: Call) -> None:
    await call.read_body()
    await call.answer(b"no", "404 Gone")


async def test_a_full_queue_refuses_and_takes_again_when_something_has_ended(
    platform: Platform,
) -> None:
    gate = asyncio.Event()

    async def waits(call: Call) -> None:
        await call.read_body()
        await gate.wait()
        await call.answer(b"ok")

    router = await ready(platform, waits, concurrency=1)
    await limit(platform, "INVOCATIONS", SMALL)
    locations, refused = await fill(router)
    assert refused.status == 503
    assert "queue is full" in refused.problem["detail"]
    assert "retry-after" in refused.headers
    assert locations
    gate.set()
    for location in locations:
        assert (await ended(router, location))["state"] == "done"
    assert await takes(router)


async def test_when_results_fill_their_store_what_is_accepted_waits_and_nothing_more_is_taken(
    platform: Platform,
) -> None:
    router = await ready(platform, answers_much, retry=Retry(attempts=1))
    config = await limit(platform, "RESULTS", SMALL)
    locations, refused = await fill(router)
    assert refused.status == 503
    assert "results fill their store" in refused.problem["detail"]
    assert locations
    await platform.js.update_stream(config)
    for location in locations:
        assert (await ended(router, location))["state"] == "done"
    # Whatever found no room was not run again for it.
    assert len(platform.instances[0].calls) == len(locations)

    async def again() -> bool:
        return await takes(router)

    await eventually(again)


async def test_results_that_expire_make_room_by_themselves(platform: Platform) -> None:
    router = await ready(platform, answers_much, result_ttl_s=1.0)
    await limit(platform, "RESULTS", SMALL)
    _, refused = await fill(router)
    assert refused.status == 503

    async def again() -> bool:
        return await takes(router)

    await eventually(again, 60.0)


async def test_when_the_dead_fill_their_store_nothing_is_lost_and_pruning_makes_room(
    platform: Platform,
) -> None:
    router = await ready(platform, fails)
    await limit(platform, "DEAD", SMALL)
    locations, refused = await fill(router)
    assert refused.status == 503
    assert "wasmfn dead prune" in refused.problem["detail"]
    pruned = 0

    async def all_ended() -> bool:
        nonlocal pruned
        answer = await request(router.admin, "DELETE", "/dead?older_than_s=0&function=f")
        assert answer.status == 200, answer.body
        pruned += json.loads(answer.body)["pruned"]
        return pruned == len(locations)

    await eventually(all_ended, 60.0)
    for location in locations:
        assert (await ended(router, location))["state"] == "dead"
    assert await dead_letters(platform) == []

    async def again() -> bool:
        return await takes(router)

    await eventually(again)


async def test_without_room_messages_stay_in_their_stream_or_are_told_of_as_lost(
    platform: Platform,
) -> None:
    await platform.js.add_stream(StreamConfig(name="SHOP", subjects=["shop.>"]))
    lost: asyncio.Queue[Msg] = asyncio.Queue()
    await platform.nc.subscribe("wasmfn.events.router.*.*.*.message-lost", cb=lost.put)
    router = await ready(platform, fails)
    await subscribe(platform, name="kept", subject="shop.orders", stream="SHOP")
    await subscribe(platform, name="heard", subject="ask.me")

    async def listens() -> bool:
        return bool(await platform.js.consumers_info("SHOP"))

    await eventually(listens)
    await limit(platform, "DEAD", SMALL)
    locations, _ = await fill(router)
    await platform.js.publish("shop.orders", b"order")

    async def told_of() -> bool:
        # It may not be subscribed yet.
        await platform.nc.publish("ask.me", b"question")
        return not lost.empty()

    await eventually(told_of)
    told = json.loads(lost.get_nowait().data)
    assert "dead letters fill their store" in told["message"]
    state = await platform.js.consumer_info("SHOP", "wasmfn_default_kept")
    assert (state.num_pending or 0) + (state.num_ack_pending or 0) == 1

    async def arrived() -> bool:
        answer = await request(router.admin, "DELETE", "/dead?older_than_s=0")
        assert answer.status == 200, answer.body
        return any(call.body == b"order" for call in platform.instances[0].calls)

    await eventually(arrived, 60.0)
    assert len(platform.instances[0].calls) == len(locations) + 1


async def test_pruning_leaves_the_young_and_those_of_others(platform: Platform) -> None:
    router = await ready(platform, fails)
    for _ in range(3):
        await ended(router, await accepted(router))

    async def prune(query: str) -> Response:
        answer: Response = await request(router.admin, "DELETE", f"/dead?{query}")
        return answer

    assert (await prune("")).status == 400
    assert (await prune("older_than_s=-1")).status == 400
    assert (await prune("older_than_s=nan")).status == 400
    assert json.loads((await prune("older_than_s=3600")).body)["pruned"] == 0
    assert json.loads((await prune("older_than_s=0&function=g")).body)["pruned"] == 0
    assert json.loads((await prune("older_than_s=0&namespace=other")).body)["pruned"] == 0
    assert len(await dead_letters(platform)) == 3
    from_a_page = {"origin": "http://evil.example"}
    refused = await request(router.admin, "DELETE", "/dead?older_than_s=0", b"", from_a_page)
    assert refused.status == 403
    answer = json.loads((await prune("older_than_s=0&namespace=default")).body)
    assert (answer["pruned"], answer["more"]) == (3, False)
    assert await dead_letters(platform) == []
