"""Functions with images of their own, with a cluster that does as the test says."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime

import msgspec
import pytest

from schemas.active import ActiveFunction
from schemas.endpoints import Endpoint
from schemas.pods import PodFact
from schemas.specs import FunctionSpec, Scaling
from services.scheduler.function import Instance
from services.scheduler.nativepod import is_drained
from services.scheduler.natives import SETTLE_S, NativeError, NativeFleet
from services.scheduler.pods.native import (
    Native,
    NativeGone,
    Natives,
    RefusedError,
    Revision,
    Workload,
)
from services.scheduler.scaling import Ask
from services.scheduler.world import Spec, World

NAME = ("default", "web")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
LABELS = {"wasmfn/role": "function", "wasmfn/namespace": "default", "wasmfn/function": "web"}


def function(revision: int = 1) -> ActiveFunction:
    spec = FunctionSpec(image="web:1", executor="deployment", scaling=Scaling(idle_timeout_s=10))
    return ActiveFunction(*NAME, revision, spec, "", None, "")


class Cluster:
    """Workloads as they were applied, and what was ended."""

    def __init__(self) -> None:
        self.workloads: dict[Revision, int] = {}
        self.ended: list[str] = []
        self.trouble = ""
        self.refuses = ""
        self.pods: tuple[Native, ...] = ()

    async def list(self) -> tuple[list[Workload], Natives]:
        workloads = [Workload(name="w", of=of, replicas=n) for of, n in self.workloads.items()]
        return workloads, Natives(self.pods, asyncio.get_running_loop().time() + 1)

    async def apply(self, active: ActiveFunction, replicas: int) -> Workload:
        if self.refuses:
            raise RefusedError(self.refuses)
        of = (active.namespace, active.name, active.revision)
        self.workloads[of] = replicas
        return Workload(name="w", of=of, replicas=replicas, trouble=self.trouble)

    async def remove(self, workload: Workload) -> None:
        del self.workloads[workload.of]

    async def end(self, native: Native) -> None:
        self.ended.append(native.uid)

    async def follow(self) -> AsyncGenerator[Natives | Native | NativeGone, None]:
        yield Natives(self.pods, asyncio.get_running_loop().time() + 1)


class Term:
    """A term that holds."""

    def check(self) -> None:
        pass


class Scene:
    """A fleet in its world."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.world = World(runs_images=True)
        self.world.put_spec(("function", *NAME), Spec(1, function().spec))
        self.fleet = NativeFleet(self.cluster, self.world, Term())  # type: ignore[arg-type]

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def look(self, after_s: float = 0.0) -> None:
        """What the reconciler does with the function."""
        self.fleet.match(NAME, self.now() + after_s)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await self.fleet.settle(NAME)

    def load(self, revision: int = 1, instance: str = "i") -> "asyncio.Task[Endpoint]":
        """What the loader does."""
        self.world.function(NAME).loading[instance] = revision
        task = asyncio.create_task(self.fleet.load(function(revision), instance))

        def done(_: object) -> None:
            del self.world.function(NAME).loading[instance]
            if not task.cancelled() and task.exception() is None:
                self.world.function(NAME).instances[instance] = Instance(
                    endpoint=task.result(), loaded=self.now(), since=self.now()
                )

        task.add_done_callback(done)
        return task

    async def seen(self, uid: str, revision: int = 1, **fields: object) -> None:
        """What the API server says of a pod."""
        native = Native(uid=uid, name=uid, of=(*NAME, revision), **fields)  # type: ignore[arg-type]
        others = [pod for pod in self.cluster.pods if pod.uid != uid]
        self.cluster.pods = (*others, native)
        await self.fleet.follow()

    def told(self, uid: str, revision: int = 1, **fields: object) -> None:
        """What its node says of it: that it serves, if nothing else."""
        fact = PodFact(
            uid=uid, node="n", name=uid, phase="running", time=NOW, ip="10.0.0.1", port=8080,
            ready=True, labels={**LABELS, "wasmfn/revision": str(revision)},
        )  # fmt: skip
        self.fleet.told(msgspec.structs.replace(fact, **fields))

    async def served(self, uid: str = "p", instance: str = "i") -> Endpoint:
        """Load one process and have it serve; the revision is in force then."""
        loading = self.load(instance=instance)
        await asyncio.sleep(0)
        await self.look()
        await self.seen(uid)
        self.told(uid)
        await self.look(after_s=SETTLE_S)
        self.world.active[NAME] = function()
        self.world.function(NAME).instances[instance].published = True
        return await loading


async def test_a_load_is_given_the_first_native_that_takes_connections() -> None:
    scene = Scene()
    loading = scene.load()
    await asyncio.sleep(0)
    await scene.look()
    assert scene.cluster.workloads == {(*NAME, 1): 1}
    scene.told("p", ready=False)
    await scene.look()
    assert not loading.done()
    scene.told("p")
    await scene.look()
    assert not loading.done()
    await scene.look(after_s=SETTLE_S)
    endpoint = await loading
    assert (endpoint.instance, endpoint.pod, endpoint.token) == ("i", "p", "")
    assert (endpoint.ip, endpoint.port, endpoint.revision) == ("10.0.0.1", 8080, 1)


async def test_a_native_serves_one_instance_and_is_ended_with_it() -> None:
    scene = Scene()
    await scene.served()
    del scene.world.function(NAME).instances["i"]
    await scene.look()
    assert scene.cluster.ended == ["p"]
    assert not scene.world.function(NAME).instances
    assert scene.cluster.workloads == {(*NAME, 1): 0}


async def test_a_native_that_the_cluster_made_in_the_place_of_another_is_taken() -> None:
    scene = Scene()
    await scene.served()
    scene.told("p", phase="dead", ready=False, reason="its container ended with exit code 1")
    await scene.look()
    assert scene.world.function(NAME).instances["i"].state == "lost"
    scene.told("q")
    await scene.look()
    [after] = [one for one in scene.world.function(NAME).instances.values() if one.state != "lost"]
    assert after.endpoint.pod == "q"
    assert after.endpoint.instance != "i"


async def test_what_a_container_said_before_it_ended_is_why_the_load_failed() -> None:
    scene = Scene()
    loading = scene.load()
    await asyncio.sleep(0)
    await scene.look()
    # Its node is the first to know that it ended, and not why.
    await scene.seen("p")
    scene.told("p", phase="dead", ready=False, reason="its container ended")
    await scene.look()
    assert not loading.done()
    assert not scene.cluster.ended
    await scene.seen("p", trouble="it said: no database", failed=True)
    await scene.look()
    with pytest.raises(NativeError, match="no database"):
        await loading
    assert scene.cluster.ended == ["p"]
    await scene.look()
    assert not scene.cluster.workloads


async def test_what_listens_and_then_fails_puts_no_revision_in_force() -> None:
    scene = Scene()
    loading = scene.load()
    await asyncio.sleep(0)
    await scene.seen("p")
    scene.told("p")
    await scene.look()
    await scene.seen("p", trouble="it said: no module", failed=True)
    scene.told("p", phase="dead", ready=False, reason="its container ended")
    await scene.look(after_s=SETTLE_S)
    with pytest.raises(NativeError, match="no module"):
        await loading


async def test_what_ends_young_again_and_again_is_tried_ever_more_seldom() -> None:
    scene = Scene()
    await scene.served()
    waits = []
    for number in range(3):
        scene.told(f"p{number}")
        await scene.look()
        scene.world.function(NAME).troubles.clear()
        scene.told(f"p{number}", phase="dead", ready=False, reason="crashed")
        now = scene.now()
        await scene.look()
        waits.append(scene.world.function(NAME).troubles[1].until - now)
    assert waits[0] < waits[1] < waits[2]


async def test_a_container_whose_last_words_never_come_has_failed_all_the_same() -> None:
    scene = Scene()
    loading = scene.load()
    await asyncio.sleep(0)
    await scene.seen("p")
    scene.told("p", phase="dead", ready=False, reason="its container ended with exit code 3")
    await scene.look(after_s=60)
    with pytest.raises(NativeError, match="exit code 3"):
        await loading


async def test_what_the_cluster_refuses_or_cannot_make_fails_the_load() -> None:
    for attribute in ("refuses", "trouble"):
        scene = Scene()
        setattr(scene.cluster, attribute, "no such RuntimeClass")
        loading = scene.load()
        await asyncio.sleep(0)
        await scene.look()
        with pytest.raises(NativeError, match="no such RuntimeClass"):
            await loading


async def test_what_waits_for_a_node_is_waited_for_and_told() -> None:
    scene = Scene()
    loading = scene.load()
    await scene.seen("p", trouble="no node takes it")
    await scene.look(after_s=60)
    assert not loading.done()
    assert scene.world.function(NAME).waits == "no node takes it"
    loading.cancel()


async def test_only_silence_of_all_routers_for_the_whole_timeout_is_idleness() -> None:
    scene = Scene()
    await scene.served()
    state, ask, now = scene.world.function(NAME), Ask("i", 10.0, "idle"), scene.now()
    state.used = now + 5
    assert not scene.fleet.ask_idle(NAME, ask, now + 12)
    assert state.instances["i"].state == "serving"
    assert scene.fleet.ask_idle(NAME, ask, now + 15)
    assert state.instances["i"].state == "leaving"


async def test_an_instance_is_given_up_only_when_it_was_withdrawn_and_is_drained() -> None:
    scene = Scene()
    await scene.served()
    [known] = scene.world.function(NAME).instances.values()
    scene.fleet.drain(known, "idle")
    await scene.look(after_s=100)
    assert known.state == "leaving"
    known.published = False
    await scene.look()
    assert known.state == "leaving"
    assert scene.cluster.workloads == {(*NAME, 1): 1}
    await scene.look(after_s=10)
    assert known.state == "lost"


@pytest.mark.parametrize(
    ("withdrawn_s", "load", "drained"),
    [(0.0, 0, False), (3.5, 0, False), (5.0, 0, True), (60.0, 1, False), (66.0, 1, True)],
)
def test_in_flight_is_waited_for_as_long_as_the_timeout(
    withdrawn_s: float, load: int, drained: bool
) -> None:
    assert is_drained(withdrawn_s, load, timeout_s=60.0) is drained


async def test_a_pod_that_somebody_else_ends_takes_nothing_more() -> None:
    scene = Scene()
    await scene.served()
    await scene.seen("p", ending=True)
    await scene.look()
    assert scene.world.function(NAME).instances["i"].state == "leaving"


async def test_the_next_leader_adopts_what_runs_and_removes_what_nobody_wants() -> None:
    scene = Scene()
    endpoint = await scene.served()
    scene.cluster.workloads[*NAME, 7] = 2
    successor = NativeFleet(scene.cluster, scene.world, Term())  # type: ignore[arg-type]
    await successor.survey()
    assert successor.functions() == {NAME}
    scene.fleet = successor
    scene.told("p")
    await scene.look()
    [known] = scene.world.function(NAME).instances.values()
    assert (known.state, known.endpoint) == ("serving", endpoint)
    assert scene.cluster.workloads == {(*NAME, 1): 1}


async def test_a_bus_that_has_lost_everything_removes_nothing() -> None:
    scene = Scene()
    scene.cluster.workloads[*NAME, 1] = 3
    scene.world.put_spec(("function", *NAME), None)
    await scene.fleet.survey()
    await scene.look()
    assert scene.cluster.workloads == {(*NAME, 1): 3}


async def test_a_pod_that_is_not_in_the_list_any_more_is_lost() -> None:
    scene = Scene()
    await scene.served()
    scene.cluster.pods = ()
    await scene.fleet.survey()
    await scene.look()
    assert scene.world.function(NAME).instances["i"].state == "lost"
