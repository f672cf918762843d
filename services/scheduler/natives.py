"""Functions that run as pods with images of their own: what `loading` and `fleet` are to keepers.

A native serves one instance in its life. It becomes one when podwatch has
connected to it, and is ended when the instance is forgotten, so an id and an
address never mean two things. How many natives a revision has follows from its
instances and from the loads that wait for one: `settle` has the cluster make
so many, and can be called at any time.

Nobody can be asked whether such a pod is idle. It counts as idle when no router
has said anything of its function for as long as the idle timeout, and before it
is ended its endpoint is withdrawn, and what it may still have is waited for.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from schemas.active import ActiveFunction
from schemas.endpoints import Endpoint
from schemas.names import new_instance_id
from schemas.pods import PodFact
from services.scheduler import scaling
from services.scheduler.function import Instance
from services.scheduler.nativepod import NativePod, endpoint_of, is_drained, is_native
from services.scheduler.pods.deployment import revision_of
from services.scheduler.pods.native import (
    Native,
    NativeGone,
    NativeRuntime,
    Natives,
    RefusedError,
    Revision,
    Workload,
)
from services.scheduler.record import Record
from services.scheduler.world import FunctionName, World

COME_S: Final = 900.0
"""How long a native may take to serve: its image may be large, and a node may have to come."""
SETTLE_S: Final = 1.0
"""How long a native of a new revision must have served before it puts the revision in force: some
listen first, and fail at what they do next."""
_ASK_S: Final = 0.5
"""How often the cluster is asked why it makes no pod."""
_YOUNG_S: Final = 10.0
"""A native that ends before this age counts as a failed load."""


class NativeError(Exception):
    """No native came to serve. The message is one sentence for people."""


class _Awaited(msgspec.Struct, frozen=True):
    """A load that waits for a native."""

    function: ActiveFunction
    endpoint: "asyncio.Future[Endpoint]"


class NativeFleet:
    """The natives of all functions, in the name of one term."""

    def __init__(self, runtime: NativeRuntime, world: World, record: Record) -> None:
        self._runtime = runtime
        self._world = world
        self._record = record
        self._pods: dict[str, NativePod] = {}
        self._workloads: dict[Revision, Workload] = {}
        self._awaited: dict[Revision, dict[str, _Awaited]] = {}
        self._died: Counter[Revision] = Counter()
        """How many natives in a row ended young."""
        self.on_function: Callable[[FunctionName], None] = lambda name: None

    def functions(self) -> set[FunctionName]:
        """Return the functions that something runs for in the cluster."""
        revisions = {*self._workloads, *(pod.of for pod in self._pods.values())}
        return {(namespace, name) for namespace, name, _ in revisions}

    # What others say.

    async def survey(self) -> None:
        """Compare with everything there is. Raises PodError: nothing has changed."""
        workloads, natives = await self._runtime.list()
        found = {workload.of: workload for workload in workloads}
        for of in found.keys() ^ self._workloads.keys():
            self.on_function(of[:2])
        self._workloads = found
        for workload in workloads:
            if workload.trouble:
                self._fail(workload.of, workload.trouble)
        self._listed(natives)

    async def follow(self) -> None:
        """Take in what becomes of natives, for ever."""
        async with contextlib.aclosing(self._runtime.follow()) as sightings:
            async for sighting in sightings:
                match sighting:
                    case Natives():
                        self._listed(sighting)
                    case Native():
                        self._seen(sighting)
                    case NativeGone(uid):
                        self._gone(uid)

    def told(self, fact: PodFact) -> None:
        """Take in what podwatch says of a native."""
        try:
            of = revision_of(fact.labels)
        except ValueError:
            return
        if fact.uid not in self._pods and fact.phase == "dead":
            return
        now = time.monotonic()
        pod = self._pods.setdefault(fact.uid, NativePod(of, now))
        pod.fact, pod.heard = fact, now
        self.on_function(of[:2])

    def _listed(self, natives: Natives) -> None:
        for native in natives.pods:
            self._seen(native)
        present = {native.uid for native in natives.pods}
        for uid, pod in tuple(self._pods.items()):
            if uid not in present and pod.since < natives.asked:
                self._gone(uid)

    def _seen(self, native: Native) -> None:
        pod = self._pods.setdefault(native.uid, NativePod(native.of, time.monotonic()))
        if pod.native != native:
            pod.native = native
            self.on_function(native.of[:2])

    def _gone(self, uid: str) -> None:
        if (pod := self._pods.pop(uid, None)) is not None:
            self.on_function(pod.of[:2])

    # What follows for instances.

    async def load(self, function: ActiveFunction, instance: str) -> Endpoint:
        """Have one more native, and return its endpoint when it serves.

        Raises:
            NativeError: none came to serve.
        """
        of = (function.namespace, function.name, function.revision)
        future: asyncio.Future[Endpoint] = asyncio.get_running_loop().create_future()
        awaited = self._awaited.setdefault(of, {})
        awaited[instance] = _Awaited(function, future)
        self.on_function(of[:2])
        try:
            async with asyncio.timeout(COME_S):
                return await future
        except TimeoutError:
            why = self._world.function(of[:2]).waits or "no pod of it takes connections"
            raise NativeError(f"{why}; it was given {COME_S:g} s") from None
        finally:
            awaited.pop(instance, None)
            if not awaited:
                self._awaited.pop(of, None)

    def match(self, name: FunctionName, now: float) -> float | None:
        """Bring the instances of a function in line with its natives.

        Return in how many seconds to look again, if something is only a matter of time.
        """
        function = self._world.function(name)
        known = {
            one.endpoint.pod: one for one in function.instances.values() if is_native(one.endpoint)
        }
        for uid, one in known.items():
            self._keep(name, uid, one, now)
        function.waits = ""
        for uid, pod in self._of(name):
            if uid in known:
                pod.instance = known[uid].endpoint.instance
            elif pod.instance or pod.ending:
                continue
            elif pod.serves:
                self._introduce(name, pod, now)
            else:
                self._explain(pod, now)
        leaving = any(one.state == "leaving" for one in known.values())
        waiting = any(of[:2] == name for of in self._awaited)
        return _ASK_S if leaving or waiting else None

    def drain(self, known: Instance, reason: str) -> None:
        """Have an instance end: its endpoint goes first."""
        if known.state == "serving":
            known.state, known.reason = "leaving", reason

    def ask_idle(self, name: FunctionName, ask: scaling.Ask, now: float) -> bool:
        """Have an instance end if nothing came for it for as long as is asked; return whether."""
        function = self._world.function(name)
        known = function.instances[ask.instance]
        known.since = max(known.since, function.used)
        if ask.idle_s and (function.load(now) or now - known.since < ask.idle_s):
            known.ask_again = now + _ASK_S
            return False
        self.drain(known, ask.reason)
        return True

    def _keep(self, name: FunctionName, uid: str, known: Instance, now: float) -> None:
        """Say of one instance whether it still serves."""
        pod = self._pods.get(uid)
        if pod is None or pod.over:
            if known.state != "lost":
                ended = pod.fact.reason if pod is not None and pod.fact is not None else ""
                reason = f"its pod ended: {ended}" if ended else "its pod is gone"
                if known.state == "serving":
                    self._ended(known, reason, now)
                known.state, known.reason = "lost", known.reason or reason
        elif known.state == "serving" and pod.ending:
            self.drain(known, "its pod was told to end")
        elif known.state == "leaving" and not known.published:
            known.withdrawn = known.withdrawn or now
            active = self._world.active.get(name)
            timeout_s = active.spec.limits.timeout_s if active else 60.0
            load = self._world.function(name).load(now)
            if is_drained(now - known.withdrawn, load, timeout_s):
                known.state = "lost"

    def _ended(self, known: Instance, reason: str, now: float) -> None:
        """Have the revision of a native left alone for longer each time that one ends young."""
        name = (known.endpoint.namespace, known.endpoint.function)
        of = (*name, known.endpoint.revision)
        if now - known.loaded >= _YOUNG_S:
            self._died.pop(of, None)
            return
        self._died[of] += 1
        # It has served, and so nothing is remembered of the failures before.
        for _ in range(min(self._died[of], 8)):
            self._world.function(name).fail(of[2], reason, now)

    def _introduce(self, name: FunctionName, pod: NativePod, now: float) -> None:
        """Make a native that has begun to serve an instance of its function."""
        assert pod.fact is not None  # noqa: S101 - its node says that it serves
        active = self._world.active.get(name)
        in_force = active is not None and active.revision == pod.of[2]
        if not in_force and now - pod.heard < SETTLE_S:
            return
        awaited = self._awaited.get(pod.of, {})
        for instance, load in awaited.items():
            if not load.endpoint.done():
                pod.instance = instance
                load.endpoint.set_result(endpoint_of(load.function, instance, pod.fact))
                return
        if active is not None and in_force:
            pod.instance = new_instance_id()
            self._world.function(name).instances[pod.instance] = Instance(
                endpoint=endpoint_of(active, pod.instance, pod.fact), loaded=now, since=now
            )

    def _explain(self, pod: NativePod, now: float) -> None:
        """Say of a native that does not serve why it does not."""
        trouble, failed = pod.trouble(now)
        if failed:
            pod.useless = True
            self._fail(pod.of, trouble)
        self._world.function(pod.of[:2]).waits = trouble

    def _fail(self, of: Revision, why: str) -> None:
        for load in self._awaited.get(of, {}).values():
            if not load.endpoint.done():
                load.endpoint.set_exception(NativeError(why))

    # What follows for the cluster.

    async def settle(self, name: FunctionName) -> None:
        """Have the cluster run what the function's instances and loads come to.

        Raises:
            PodError: it is not known whether the cluster does.
        """
        if not self._world.specs and not self._world.active:
            # NATS has lost its data, more likely than that all was deleted unseen.
            return
        self._record.check()
        function = self._world.function(name)
        for active in self._introduced(name):
            of = (*name, active.revision)
            workload = self._workloads.get(of)
            if workload is not None and workload.replicas and not self._replicas(of):
                # First of all, or the cluster would replace what is ended next.
                await self._apply(active, 0)
        for _, pod in self._of(name):
            if pod.native is not None and not pod.ending and self._is_done(pod):
                await self._runtime.end(pod.native)
                pod.native = msgspec.structs.replace(pod.native, ending=True)
        for active in self._introduced(name):
            of = (*name, active.revision)
            workload, replicas = self._workloads.get(of), self._replicas(of)
            awaited = self._awaited.get(of)
            makes_none = awaited and not any(pod.of == of for pod in self._pods.values())
            if workload is None or workload.replicas != replicas or makes_none:
                await self._apply(active, replicas)
        kept = {active.revision for active in self._introduced(name)}
        kept |= {one.endpoint.revision for one in function.instances.values()}
        for of, workload in tuple(self._workloads.items()):
            if of[:2] == name and of[2] not in kept:
                await self._runtime.remove(workload)
                del self._workloads[of]

    async def _apply(self, function: ActiveFunction, replicas: int) -> None:
        of = (function.namespace, function.name, function.revision)
        self._record.check()
        try:
            self._workloads[of] = await self._runtime.apply(function, replicas)
        except RefusedError as error:
            self._fail(of, str(error))
        else:
            if trouble := self._workloads[of].trouble:
                self._fail(of, trouble)

    def _introduced(self, name: FunctionName) -> Iterator[ActiveFunction]:
        """Yield the revisions that natives are made of: the one in force, and those to be."""
        active = self._world.active.get(name)
        if active is not None and active.spec.executor == "deployment":
            yield active
        for of, awaited in self._awaited.items():
            if of[:2] == name and (active is None or of[2] != active.revision):
                yield from [load.function for load in awaited.values()][:1]

    def _replicas(self, of: Revision) -> int:
        function = self._world.function(of[:2])
        return sum(revision == of[2] for revision in function.loading.values()) + sum(
            one.endpoint.revision == of[2] and is_native(one.endpoint) and one.state != "lost"
            for one in function.instances.values()
        )

    def _is_done(self, pod: NativePod) -> bool:
        """Whether a native is of no use any more, so that another one can take its place."""
        if not pod.instance:
            return pod.useless
        function = self._world.function(pod.of[:2])
        return pod.instance not in function.instances and pod.instance not in function.loading

    def _of(self, name: FunctionName) -> list[tuple[str, NativePod]]:
        return [(uid, pod) for uid, pod in self._pods.items() if pod.of[:2] == name]
