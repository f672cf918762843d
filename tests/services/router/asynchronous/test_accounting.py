"""Every accepted invocation is accounted for: done, or among the dead, whatever dies meanwhile."""

import asyncio
import random
import signal

from schemas.specs import Retry
from tests.conftest import NatsServer
from tests.services.router.asynchronous.calls import ASYNC, dead_letters, ended, ready
from tests.services.router.clients import eventually
from tests.services.router.instances import Call
from tests.services.router.platform import Platform, Router


class Unreliable:
    """A function that breaks off, fails, refuses or answers, by chance."""

    def __init__(self) -> None:
        self.answered: set[bytes] = set()
        self._chance = random.Random(7)  # noqa: S311 - so that a failure can be looked at again

    async def __call__(self, call: Call) -> None:
        body = await call.read_body()
        await asyncio.sleep(self._chance.random() / 20)
        fate = self._chance.random()
        if fate < 0.1:
            call.reset()
        elif fate < 0.3:
            await call.answer(b"", "500 Oh")
        elif fate < 0.35:
            await call.answer(b"", "404 No")
        else:
            self.answered.add(body)
            await call.answer(b"ok")


async def load(to: Router, name: str, locations: dict[str, bytes]) -> None:
    """Send requests, and note where those are that were accepted."""
    for n in range(80):
        body = f"{name} {n}".encode()
        try:
            response = await to.request("POST", "/f", body, ASYNC)
        except (OSError, asyncio.IncompleteReadError):
            continue  # Nobody promised anything.
        if response.status == 202:
            locations[response.headers["location"]] = body


async def test_what_two_routers_accepted_is_accounted_for_when_one_and_nats_are_killed(
    platform: Platform, nats_server: NatsServer
) -> None:
    function = Unreliable()
    rules = {"retry": Retry(attempts=4, first_delay_s=0.1), "concurrency": 32}
    doomed = await ready(platform, function, timeout_s=1.0, **rules)
    router = await platform.router()
    locations: dict[str, bytes] = {}

    loading = [
        asyncio.create_task(load(to, n, locations)) for to, n in ((doomed, "a"), (router, "b"))
    ]
    await eventually(lambda: len(locations) > 40)
    doomed.signal(signal.SIGKILL)
    await eventually(lambda: len(locations) > 70)
    await platform.disconnect()
    await asyncio.to_thread(nats_server.restart)
    await asyncio.gather(*loading)
    await platform.connect()
    states = {location: (await ended(router, location))["state"] for location in locations}
    dead = {f"/.wasmfn/invocations/default/f/{one.id}" for one in await dead_letters(platform)}
    for location, state in states.items():
        assert location in dead if state == "dead" else locations[location] in function.answered

    async def empty() -> bool:
        return (await platform.js.stream_info("INVOCATIONS")).state.messages == 0

    await eventually(empty, 60.0)
    done = 'async_ended_total{function="f",namespace="default",state="done"}'
    assert await router.metric(done) > 0
