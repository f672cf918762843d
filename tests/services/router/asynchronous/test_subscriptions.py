"""Subscriptions: messages of NATS become invocations, each once, and are answered if asked to."""

import asyncio
from typing import Any

import msgspec
import nats.errors
from nats.aio.msg import Msg
from nats.js import api

from schemas import subjects
from schemas.active import ActiveSubscription
from schemas.events import Event
from schemas.specs import SubscriptionSpec
from tests.services.router.asynchronous.calls import ready
from tests.services.router.clients import eventually
from tests.services.router.platform import Platform


async def subscribe(platform: Platform, name: str = "s", revision: int = 1, **spec: Any) -> None:
    active = ActiveSubscription("default", name, revision, SubscriptionSpec(function="f", **spec))
    subject = subjects.ACTIVE.subject(kind="subscription", namespace="default", name=name)
    await platform.publish(subject, active)


async def asked(platform: Platform, subject: str, data: bytes) -> bytes:
    """Ask until somebody listens, and return the answer."""
    answer = b""

    async def answers() -> bool:
        nonlocal answer
        try:
            answer = (await platform.nc.request(subject, data, timeout=5)).data
        except (nats.errors.NoRespondersError, nats.errors.TimeoutError):
            return False
        return True

    await eventually(answers, 60.0)
    return answer


async def test_a_message_calls_the_function_and_its_output_is_the_reply(platform: Platform) -> None:
    await ready(platform)
    await platform.router()
    await subscribe(platform, subject="ask.*", reply=True)
    assert await asked(platform, "ask.me", b"question") == b"question"
    calls = platform.instances[0].calls
    assert calls[-1].header["x-subject"] == "ask.me"
    seen = len(calls)
    for n in range(20):
        assert await asked(platform, "ask.me", b"%d" % n) == b"%d" % n
    # Two routers listen, and one of them takes each message.
    assert len(calls) == seen + 20


async def test_a_reply_goes_to_no_subject_of_the_platform(platform: Platform) -> None:
    heard: asyncio.Queue[Any] = asyncio.Queue()
    await platform.nc.subscribe("wasmfn.specs.>", cb=heard.put)
    await ready(platform)
    await subscribe(platform, subject="ask.*", reply=True)
    await asked(platform, "ask.me", b"ready?")
    await platform.nc.publish("ask.me", b"{}", reply="wasmfn.specs.function.default.evil")
    await eventually(lambda: len(platform.instances[0].calls) == 2)
    assert await asked(platform, "ask.me", b"done?") == b"done?"
    assert heard.empty()


async def test_a_stream_is_read_through_every_restart_and_each_message_once(
    platform: Platform,
) -> None:
    await platform.js.add_stream(api.StreamConfig(name="SHOP", subjects=["shop.>"]))
    first = await ready(platform)
    await subscribe(platform, subject="shop.orders", stream="SHOP")

    async def listens() -> bool:
        return bool(await platform.js.consumers_info("SHOP"))

    await eventually(listens)
    for n in range(10):
        await platform.js.publish("shop.orders", b"%d" % n)
    await platform.js.publish("shop.other", b"not this")
    await eventually(lambda: len(platform.instances[0].calls) == 10)
    first.process.kill()
    await first.ended()
    for n in range(10, 20):
        await platform.js.publish("shop.orders", b"%d" % n)
    await platform.router()
    await eventually(lambda: len(platform.instances[0].calls) >= 20, 60.0)
    bodies = sorted(int(call.body) for call in platform.instances[0].calls)
    assert sorted(set(bodies)) == list(range(20))


async def test_a_stream_made_anew_is_another_stream(platform: Platform) -> None:
    config = api.StreamConfig(name="SHOP", subjects=["shop.>"])
    await ready(platform)
    await subscribe(platform, subject="shop.orders", stream="SHOP")

    async def listens() -> bool:
        return bool(await platform.js.consumers_info("SHOP"))

    for body in (b"first", b"second"):
        await platform.js.add_stream(config)
        await eventually(listens, 60.0)
        assert (await platform.js.publish("shop.orders", body)).seq == 1
        calls = platform.instances[0].calls
        await eventually(lambda: body in [call.body for call in calls], 60.0)  # noqa: B023
        await platform.js.delete_stream("SHOP")


async def test_a_stream_that_is_not_there_is_told_of_once_and_waited_for(
    platform: Platform,
) -> None:
    await ready(platform)
    told: list[Event] = []

    async def hear(msg: Msg) -> None:
        event = msgspec.json.decode(msg.data, type=Event)
        if event.what == "subscription-waits":
            told.append(event)

    await platform.nc.subscribe("wasmfn.events.>", cb=hear)
    await subscribe(platform, subject="shop.orders", stream="SHOP")
    await eventually(lambda: bool(told), 60.0)
    assert (told[0].kind, told[0].name, told[0].level) == ("subscription", "s", "warning")
    assert "there is no stream SHOP" in told[0].message
    await platform.js.add_stream(api.StreamConfig(name="SHOP", subjects=["shop.>"]))

    async def listens() -> bool:
        return bool(await platform.js.consumers_info("SHOP"))

    await eventually(listens, 60.0)
    await platform.js.publish("shop.orders", b"one")
    await eventually(lambda: bool(platform.instances[0].calls), 60.0)
    assert len(told) == len({event.fields["stream"] for event in told}) == 1


async def test_a_subscription_that_is_gone_takes_nothing(platform: Platform) -> None:
    await ready(platform)
    await subscribe(platform, subject="ask.*", reply=True)
    await asked(platform, "ask.me", b"there?")
    await platform.delete(
        subjects.ACTIVE.subject(kind="subscription", namespace="default", name="s")
    )

    async def deaf() -> bool:
        try:
            await platform.nc.request("ask.me", b"still?", timeout=5)
        except nats.errors.NoRespondersError:
            return True
        return False

    await eventually(deaf, 60.0)
