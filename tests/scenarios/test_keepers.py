"""What happens to requests while what serves them comes and goes."""

import asyncio

import msgspec

from schemas.events import Event
from schemas.pods import PodFact
from schemas.streams import PODS
from services.bus.follow import follow
from services.bus.state import Put, Snapshot
from tests.scenarios.caller import deploy, endpoints, post
from tests.scenarios.load import Load
from tests.scenarios.platforms.protocol import Platform
from tests.scenarios.story import DEADLINE_S, Story
from wasmfn.client import Client


async def ended(client: Client, pod: str) -> None:
    """Return when podwatch says that a keeper runs no more."""
    async with asyncio.timeout(DEADLINE_S):
        async for update in follow(client.bus, PODS.name):
            match update:
                case Snapshot(entries):
                    told = entries
                case Put(entry):
                    told = (entry,)
                case _:
                    continue
            facts = [msgspec.json.decode(entry.payload, type=PodFact) for entry in told]
            if any((fact.uid, fact.phase) == (pod, "dead") for fact in facts):
                return


async def test_a_killed_keeper_is_replaced_and_nothing_internal_shows(platform: Platform) -> None:
    deploy(platform, "hello", "survivor")
    async with platform.nats() as client, Load(platform, "/survivor", 4) as load:
        story = Story(client, "survivor")
        for uid in platform.keepers():
            platform.kill(uid)
        await story.until("instance-loaded")
    after = await post(platform, "/survivor")
    assert after.status_code == 200
    # A call that was running in the killed keeper may fail; it says so in the router's words.
    assert load.statuses <= {200, 502, 503}
    for answer in (after, *(one for one in load.answers if one.status_code != 200)):
        names = {name for name in answer.headers if name.startswith("x-wasmfn")}
        assert names <= {"x-wasmfn-run-ms"}
        assert "127.0.0.1" not in answer.text
        assert "10.42.0." not in answer.text


async def test_a_keeper_that_is_told_to_end_under_load_fails_no_request(
    platform: Platform,
) -> None:
    deploy(platform, "sort", "moving")
    async with platform.nats() as client, Load(platform, "/moving", 8, args=["2", "1"]) as load:
        story = Story(client, "moving")
        (old,) = await endpoints(platform, "moving")
        platform.evict(old.pod)
        await story.until("instance-loaded", lambda event: event.fields["keeper"] != old.pod)
        await ended(client, old.pod)
        await load.more(50)
    assert load.failed == []
    assert {answer.json()["output"][0] for answer in load.answers} == {"1 2"}


async def test_processes_come_with_the_load_up_to_the_most_and_go_without_it(
    platform: Platform,
) -> None:
    scaling = ("--concurrency", "1", "--max-instances", "3", "--idle-timeout", "1s")
    async with platform.nats() as client:
        story = Story(client, "elastic")
        deploy(platform, "sleepy", "elastic", *scaling)
        await story.until("scaled-to-zero")
        story.goes_on()
        async with Load(platform, "/elastic", 8, args=["0.2"]) as load:
            loaded: set[object] = set()

            def third(event: Event) -> bool:
                loaded.add(event.fields["instance"])
                return len(loaded) == 3

            await story.until("instance-loaded", third)
            await load.more(30)
            serving = await endpoints(platform, "elastic")
        assert load.failed == []
        # One that nothing came to for a second may have gone meanwhile, and another come.
        assert 0 < len(serving) <= 3
        story.goes_on()
        await story.until("scaled-to-zero")
        await story.until("endpoint-withdrawn")
        assert await endpoints(platform, "elastic") == []
