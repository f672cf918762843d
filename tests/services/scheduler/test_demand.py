"""What a demand is answered with when nothing can or need be loaded."""

import time
from datetime import UTC, datetime

import pytest

from schemas.active import ActiveFunction
from schemas.builds import Artifact
from schemas.control import Activity, DemandMet, DemandRefused, DemandRequest, FunctionActivity
from schemas.endpoints import Endpoint
from schemas.specs import FunctionSpec, Module, Scaling
from services.scheduler.demand import Demands
from services.scheduler.function import Instance
from services.scheduler.world import World

SHA = "a" * 64
NAME = ("default", "f")


class NoLoader:
    """Stands where loads would begin: these demands must begin none."""

    def under_way(self, name: tuple[str, str]) -> set[object]:
        return set()

    def start(self, *_: object, **__: object) -> None:
        raise AssertionError("nothing is to be loaded")


def demands(instances: int, most: int) -> tuple[Demands, World]:
    world = World()
    scaling = Scaling(max_instances=most, concurrency=1)
    world.active[NAME] = ActiveFunction(
        *NAME, 1, FunctionSpec(module=Module(SHA), scaling=scaling), SHA,
        Artifact(SHA, "e", 1, SHA, "00"), "f.wasm",
    )  # fmt: skip
    for number in range(instances):
        endpoint = Endpoint(
            *NAME, str(number), "127.0.0.1", 1, "pod", "node", 1, 1, "token", datetime.now(UTC)
        )
        world.function(NAME).instances[str(number)] = Instance(endpoint=endpoint)
    return Demands(world, NoLoader()), world  # type: ignore[arg-type]


def request(reason: str, failed: list[str] | None = None) -> DemandRequest:
    return DemandRequest("r", reason, 1, 1.0, failed or [])  # type: ignore[arg-type]


@pytest.mark.parametrize("reason", ["cold", "failed"])
async def test_what_serves_is_told_at_once_without_what_failed(reason: str) -> None:
    reply = await demands(3, most=3)[0].answer(NAME, request(reason, ["1"]))
    assert isinstance(reply, DemandMet)
    assert [endpoint.instance for endpoint in reply.endpoints] == ["0", "2"]


async def test_the_most_instances_are_not_exceeded() -> None:
    reply = await demands(2, most=2)[0].answer(NAME, request("saturated"))
    assert isinstance(reply, DemandRefused)
    assert "2 instances" in reply.message


async def test_instances_that_never_answer_are_not_made_up_for_again_and_again() -> None:
    reply = await demands(2, most=1)[0].answer(NAME, request("failed", ["0", "1"]))
    assert isinstance(reply, DemandRefused)


async def test_a_revision_that_has_just_failed_is_left_alone_and_says_why() -> None:
    answering, world = demands(0, most=1)
    world.function(NAME).fail(1, "there is no secret", time.monotonic())
    reply = await answering.answer(NAME, request("cold"))
    assert isinstance(reply, DemandRefused)
    assert reply.message == "there is no secret"
    assert reply.retry_after_s >= 1


async def test_reports_of_routers_are_added_up_and_bounded() -> None:
    answering, world = demands(5, most=5)
    for number in range(3000):
        answering.seen(Activity(f"r{number}", [FunctionActivity(*NAME, 1, 1)]))
        answering.seen(Activity("same", [FunctionActivity("default", "unknown", 9, 9)]))
    function = world.function(NAME)
    assert len(function.reports) < 1000
    assert function.load(time.monotonic()) == 2 * len(function.reports)
    assert NAME in world.functions
    assert ("default", "unknown") not in world.functions
