from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from schemas.active import ActiveFunction
from schemas.builds import Artifact
from schemas.endpoints import Endpoint
from schemas.pods import PodFact
from schemas.specs import FunctionSpec, Module, Scaling
from services.scheduler.function import Instance
from services.scheduler.judge import Rejected
from services.scheduler.plan import AskIdle, Load, plan
from services.scheduler.world import Keeper, Spec, World

SHA = "a" * 64
NAME = ("default", "f")
KEY = ("function", *NAME)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def function(environment: str | None = None, scaling: Scaling | None = None) -> FunctionSpec:
    return FunctionSpec(module=Module(SHA), environment=environment, scaling=scaling or Scaling())


def in_force(world: World, spec: FunctionSpec, revision: int = 1) -> None:
    artifact = Artifact(SHA, "engine", 1, SHA, "00")
    world.put_spec(KEY, Spec(revision, spec))
    world.active[NAME] = ActiveFunction(*NAME, revision, spec, SHA, artifact, "f.wasm")


def serve(world: World, since: float, revision: int = 1) -> None:
    endpoint = Endpoint(*NAME, "i", "127.0.0.1", 1, "pod", "node", revision, 1, "token", NOW)
    world.function(NAME).instances["i"] = Instance(endpoint=endpoint, published=True, since=since)


@given(st.floats(0, 1000), st.floats(0, 1000), st.integers(1, 20))
def test_a_failure_is_retried_or_waited_for_at_whatever_time_it_is_looked_at(
    failed_at: float, later: float, times: int
) -> None:
    world = World()
    in_force(world, function(scaling=Scaling(min_instances=1)))
    for _ in range(times):
        world.function(NAME).fail(1, "it broke", failed_at)
    now = failed_at + later
    loads = [a for a in plan(world.view(NAME, now)) if isinstance(a, Load)]
    again_s = world.function(NAME).look_again_s(world.active[NAME], now)
    assert loads or (again_s is not None and 0 < again_s <= 60.001)


@given(st.floats(0, 1000), st.floats(0, 1000), st.floats(1, 100))
def test_an_idle_process_is_asked_or_waited_for_at_whatever_time_it_is_looked_at(
    since: float, later: float, timeout_s: float
) -> None:
    world = World()
    in_force(world, function(scaling=Scaling(idle_timeout_s=timeout_s)))
    serve(world, since)
    now = since + later
    asked = [a for a in plan(world.view(NAME, now)) if isinstance(a, AskIdle)]
    again_s = world.function(NAME).look_again_s(world.active[NAME], now)
    assert asked or (again_s is not None and 0 < again_s <= timeout_s)


def test_the_users_of_an_environment_are_those_by_spec_and_those_in_force() -> None:
    world = World()
    in_force(world, function("old"))
    world.put_spec(KEY, Spec(2, function("new")))
    assert world.environment_users(("default", "old")) == ["f"]
    assert world.environment_users(("default", "new")) == ["f"]
    assert world.environment_users(("other", "new")) == []
    world.put_spec(KEY, Spec(3, Rejected("no")))
    assert world.environment_users(("default", "new")) == []
    world.put_spec(KEY, Spec(4, function("new")))
    world.put_spec(KEY, None)
    del world.active[NAME]
    assert world.environment_users(("default", "new")) == []


def test_what_a_pool_waits_for_is_told_of_it_alone() -> None:
    world = World()
    world.keepers["1"] = Keeper(uid="1", name="k1", namespace="default", waits="no node")
    world.keepers["2"] = Keeper(uid="2", name="k2", namespace="other")
    assert world.waits(("default", "")) == "k1: no node"
    assert world.waits(("default", "f")) == ""
    assert world.waits(("other", "")) == ""


def test_what_is_on_a_keeper_that_is_being_replaced_is_to_move() -> None:
    world = World()
    in_force(world, function())
    serve(world, 0)
    world.keepers["pod"] = Keeper(uid="pod", name="k", namespace="default")
    assert [one.moving for one in world.view(NAME, 0).processes] == [False]
    world.keepers["pod"].retiring = True
    assert [one.moving for one in world.view(NAME, 0).processes] == [True]


def test_only_a_keeper_that_is_watched_and_not_stopping_takes_work() -> None:
    world = World()
    fact = PodFact("k", "n", "k", "running", NOW, ready=True, engine="e", capacity=2)
    keeper = world.keepers["k"] = Keeper(uid="k", name="k", namespace="default")
    assert [(k.ready, k.starting) for k in world.placeable(NAME, 1.0)] == [(False, True)]
    keeper.fact, keeper.watched = fact, True
    assert world.placeable(NAME, 1.0)[0].room == 2
    assert world.placeable(("other", "f"), 1.0) == []
    keeper.held["i"] = NAME
    keeper.full_until = 5.0
    assert world.placeable(NAME, 1.0)[0].room == 0
    assert world.placeable(NAME, 6.0)[0].room == 1
    keeper.stopping = True
    assert world.placeable(NAME, 6.0)[0].room == 0
    keeper.stopping, keeper.watched, keeper.expected_until = False, False, 7.0
    assert [k.starting for k in world.placeable(NAME, 6.0)] == [True]
    assert [k.starting for k in world.placeable(NAME, 8.0)] == [False]


def test_once_a_keeper_lacked_an_artifact_new_ones_are_known_to_have_none() -> None:
    world = World()
    world.keepers["a"] = Keeper(uid="a", name="a", namespace="default")
    assert not world.caches_apart()
    world.keepers["b"] = Keeper(uid="b", name="b", namespace="default", lacks_artifacts=True)
    assert world.caches_apart()
