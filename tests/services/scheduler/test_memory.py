"""What is written again when NATS has lost its data."""

from datetime import UTC, datetime

from schemas.active import ActiveFunction, ActiveRoute
from schemas.builds import Artifact
from schemas.endpoints import Endpoint
from schemas.specs import FunctionSpec, Module, RouteSpec
from services.scheduler.function import Instance
from services.scheduler.judge import Waiting
from services.scheduler.memory import Memory, active_again, endpoints_again
from services.scheduler.world import REMEMBERED, Spec, World

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SHA = "a" * 64
WASM = FunctionSpec(module=Module(SHA, "f.wasm"))
IMAGE = FunctionSpec(image="web:1", executor="deployment")


def endpoint(instance: str, function: str, revision: int) -> Endpoint:
    return Endpoint(
        "default", function, instance, "10.0.0.1", 1, "pod", "node", revision, 1, "token", NOW
    )


def world() -> World:
    known = World()
    artifact = Artifact(SHA, "engine", 1, SHA, "00")
    known.put_active(ActiveFunction("default", "f", 7, WASM, "b", artifact, "f.wasm"))
    known.put_active(ActiveFunction("default", "web", 8, IMAGE, "", None, ""))
    known.put_active(ActiveRoute("default", "f", 9, RouteSpec(function="f", path="/f")))
    for name, revision, published in (("new", 7, True), ("old", 6, True), ("unsaid", 7, False)):
        known.function(("default", "f")).instances[name] = Instance(
            endpoint=endpoint(name, "f", revision), published=published
        )
    known.function(("default", "web")).instances["image"] = Instance(
        endpoint=endpoint("image", "web", 8), published=True
    )
    return known


def test_only_another_stream_than_the_one_that_was_read_counts_as_lost() -> None:
    memory = Memory()
    assert memory.lost(NOW) is None, "nothing is known yet"
    known = world()
    memory.keep(known, NOW)
    assert memory.lost(NOW) is None
    assert memory.lost(datetime(2026, 1, 2, tzinfo=UTC)) is known


def test_what_is_remembered_comes_before_every_revision_of_the_new_streams() -> None:
    again = {(type(one).__name__, one.name): one.revision for one in active_again(world())}
    assert again == {
        ("ActiveFunction", "f"): REMEMBERED,
        ("ActiveRoute", "f"): REMEMBERED,
        # Its pods are labelled with their revision.
        ("ActiveFunction", "web"): 8,
    }


def test_endpoints_that_stood_on_the_bus_stand_there_again_and_what_was_replaced_still_goes() -> (
    None
):
    again = {one.instance: one.revision for one in endpoints_again(world())}
    assert again == {"new": REMEMBERED, "old": REMEMBERED - 1, "image": 8}


def test_what_is_in_force_without_a_spec_waits_for_one_and_is_no_deletion() -> None:
    known = world()
    assert known.wanted(("default", "f")) is None
    known.bereft.add(("function", "default", "f"))
    assert isinstance(known.wanted(("default", "f")), Waiting)
    known.put_spec(("function", "default", "f"), Spec(1, WASM))
    known.put_spec(("function", "default", "f"), None)
    assert known.wanted(("default", "f")) is None, "it was deleted after it came back"
