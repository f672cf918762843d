"""Keep the keepers that each namespace needs: started in time, stopped when empty.

A *pool* is what shares keepers: a namespace, or one function that is isolated by
pod. Only the runtime's complete list and its own word say that a pod runs; only
podwatch says that it answers. A list that failed changes nothing.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

from schemas.events import NO_NAMESPACE
from schemas.pods import LABEL_DEDICATED, LABEL_NAMESPACE, LABEL_ROLE, PodFact
from services.scheduler import placement
from services.scheduler.loading import Loader, Pool
from services.scheduler.nativepod import is_native
from services.scheduler.pods import Pod, PodError, PodRuntime
from services.scheduler.record import Record
from services.scheduler.watching import Watches
from services.scheduler.world import FunctionName, Keeper, World

log = logging.getLogger(__name__)

START_S: Final = 30.0
"""A keeper that runs and is not ready by then is replaced."""
COME_S: Final = 900.0
"""How long a pod may wait for a node, or for its image: a new one would wait for the same."""
_SLOW_S: Final = 5.0
"""A pod that waits for longer is told of."""
STOP_S: Final = 35.0
"""How long a keeper may drain what it still holds; it gives up before by itself."""
_YOUNG_S: Final = 10.0
_FIRST_RESTART_S: Final = 0.2
_LAST_RESTART_S: Final = 60.0


class FleetSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How many keepers there may be, and for how long."""

    warm_namespaces: frozenset[str]
    """These have a keeper before they have a function."""
    capacity: int
    """What one keeper holds."""
    max_keepers: int
    """For each pool."""
    linger_s: float
    """How long an empty keeper stays that is not the spare one."""


class Fleet:
    """The keepers of all pools, in the name of one term."""

    def __init__(
        self,
        settings: FleetSettings,
        runtime: PodRuntime,
        world: World,
        record: Record,
        loader: Loader,
        watches: Watches,
    ) -> None:
        self._settings = settings
        self._runtime = runtime
        self._world = world
        self._record = record
        self._loader = loader
        self._watches = watches
        self._started: dict[str, float] = {}
        """Uid -> when it could begin to run (monotonic), or when it was made if it is pending."""
        self._pending: set[str] = set()
        """Uids of those that wait for a node or an image, as far as is known."""
        self._failures: Counter[Pool] = Counter()
        self._not_before: dict[Pool, float] = {}
        self.on_pool: Callable[[Pool], None] = lambda pool: None
        self.on_function: Callable[[FunctionName], None] = lambda name: None

    async def survey(self) -> None:
        """Compare with the runtime's list: adopt what runs, give up what is gone.

        Raises:
            PodError: the list could not be read; nothing has changed.
        """
        before = set(self._world.keepers)
        pods = await self._runtime.list()
        for pod in pods:
            self._adopt(pod)
            self._note(pod)
        running = {pod.uid for pod in pods}
        for uid in before - running:
            self.lost(uid, "it is not in the runtime's list any more")

    def orphaned_endpoints(self) -> None:
        """Mark endpoints as lost whose pod is not in the list that `survey` has just read."""
        for name, function in self._world.functions.items():
            for known in function.instances.values():
                if not is_native(known.endpoint) and known.endpoint.pod not in self._world.keepers:
                    known.state, known.reason = "lost", "its keeper does not run any more"
                    self.on_function(name)

    async def balance(self, pool: Pool) -> float | None:
        """Start or stop keepers of `pool`; return in how many seconds to look again.

        Raises:
            PodError: a keeper could not be started.
        """
        self._record.check()
        now = time.monotonic()
        await self._replace_unready(pool, now)
        namespace, dedicated = pool
        keepers = [
            keeper
            for keeper in self._world.placeable((namespace, dedicated), now)
            if keeper.dedicated == dedicated and not self._world.keepers[keeper.uid].stopping
        ]
        waiting = self._loader.waiting[pool]
        if dedicated:
            active = self._world.active.get((namespace, dedicated))
            isolated = active is not None and active.spec.isolation == "pod"
            needed, room = isolated or waiting > 0, waiting
        else:
            warm = namespace in self._settings.warm_namespaces
            needed, room = warm or self._world.has_functions(namespace), waiting + 1
        change = placement.change(
            keepers,
            needed=needed,
            wanted_room=room,
            capacity=self._settings.capacity,
            most=self._settings.max_keepers,
            linger_s=self._settings.linger_s,
        )
        for uid in change.stop:
            # While another was stopped, this one may have been given something.
            if (keeper := self._world.keepers.get(uid)) is not None and not keeper.held:
                outdated = "it is replaced by one of now" if keeper.retiring else ""
                await self.stop(uid, outdated or "it is not needed any more")
        if change.retire:
            self._retire(self._world.keepers[change.retire])
        if change.start:
            if (wait := self._not_before.get(pool, 0.0) - now) > 0:
                return wait
            for _ in range(change.start):
                await self._start(pool)
        starting = any(keeper.starting for keeper in keepers) or change.start > 0
        lingering = [k for k in keepers if k.ready and k.held == 0]
        if starting:
            return START_S
        return self._settings.linger_s if len(lingering) > 1 or (lingering and dedicated) else None

    async def stop(self, uid: str, reason: str, patience_s: float = STOP_S) -> None:
        """End a keeper, by force after `patience_s`. Raises PodError if it may still run."""
        self._record.check()
        keeper = self._world.keepers.get(uid)
        if keeper is not None:
            keeper.stopping = True
            try:
                await self._runtime.stop(uid, patience_s)
            except PodError:
                keeper.stopping = False
                raise
            self.lost(uid, reason, expected=True)

    def lost(self, uid: str, reason: str, *, expected: bool = False) -> None:
        """Take in that a keeper is gone: so is everything on it."""
        keeper = self._world.keepers.pop(uid, None)
        if keeper is None:
            return
        lived_s = time.monotonic() - self._started.pop(uid, 0.0)
        expected = expected or keeper.stopping
        self._pending.discard(uid)
        self._watches.stop(uid)
        for name, function in self._world.functions.items():
            for known in function.instances.values():
                if known.endpoint.pod == uid:
                    known.state, known.reason = "lost", f"its keeper ended: {reason}"
                    self.on_function(name)
        pool = (keeper.namespace, keeper.dedicated)
        if not expected and lived_s < _YOUNG_S:
            # Starting the next one at once would go on for ever.
            self._back_off(pool)
        elif not expected:
            self._failures.pop(pool, None)
        self._record.event(
            ("pod", NO_NAMESPACE, keeper.name),
            "keeper-stopped" if expected else "keeper-died",
            f"the keeper {keeper.name} of namespace {keeper.namespace} ended: {reason}",
            level="info" if expected else "warning",
            namespace_of=keeper.namespace,
            uid=uid,
        )
        self.on_pool(pool)

    def told(self, fact: PodFact) -> None:
        """Take in what podwatch says of a pod."""
        if fact.phase == "dead":
            self._world.facts.pop(fact.uid, None)
            self.lost(fact.uid, fact.reason or "podwatch says so")
            return
        self._world.facts[fact.uid] = fact
        if (keeper := self._world.keepers.get(fact.uid)) is not None:
            self._introduce(keeper, fact)

    def _adopt(self, pod: Pod) -> None:
        if pod.labels.get(LABEL_ROLE) != "keeper" or pod.uid in self._world.keepers:
            return
        keeper = Keeper(
            uid=pod.uid,
            name=pod.name,
            namespace=pod.labels.get(LABEL_NAMESPACE, ""),
            dedicated=pod.labels.get(LABEL_DEDICATED, ""),
            empty_since=time.monotonic(),
            lacks_artifacts=self._world.caches_apart(),
        )
        self._world.keepers[pod.uid] = keeper
        self._started[pod.uid] = time.monotonic()
        if pod.waits:
            self._pending.add(pod.uid)
        if (fact := self._world.facts.get(pod.uid)) is not None:
            self._introduce(keeper, fact)
        self.on_pool((keeper.namespace, keeper.dedicated))

    def _note(self, pod: Pod) -> None:
        """Take in what the runtime says of a keeper that has been adopted."""
        keeper = self._world.keepers.get(pod.uid)
        if keeper is None:
            return
        if pod.outdated and not keeper.stopping:
            keeper.outdated = True
            self.on_pool((keeper.namespace, keeper.dedicated))
        now = time.monotonic()
        if not pod.waits and pod.uid in self._pending:
            self._pending.remove(pod.uid)
            self._started[pod.uid] = now
        slow = pod.waits and now - self._started[pod.uid] >= _SLOW_S
        waits = pod.waits if slow else ""
        if waits == keeper.waits:
            return
        keeper.waits = waits
        if waits:
            self._record.event(
                ("pod", NO_NAMESPACE, keeper.name),
                "keeper-waits",
                f"the keeper {keeper.name} of namespace {keeper.namespace} waits: {waits}",
                level="warning",
                namespace_of=keeper.namespace,
                uid=keeper.uid,
            )
        for name, function in self._world.functions.items():
            if name[0] == keeper.namespace and function.loading:
                self.on_function(name)

    def _retire(self, keeper: Keeper) -> None:
        """Have everything that a keeper holds moved to others, and then the keeper ended."""
        keeper.retiring = True
        self._record.event(
            ("pod", NO_NAMESPACE, keeper.name),
            "keeper-retiring",
            f"the keeper {keeper.name} of namespace {keeper.namespace} was made from another image"
            f" or with other settings; what it holds ({len(keeper.held)}) is moved to others",
            namespace_of=keeper.namespace,
            uid=keeper.uid,
        )
        for name in set(keeper.held.values()):
            self.on_function(name)
        self.on_pool((keeper.namespace, keeper.dedicated))

    def _introduce(self, keeper: Keeper, fact: PodFact) -> None:
        """Take in what podwatch says of a keeper that runs."""
        if not fact.ready:
            return
        keeper.fact = fact
        self._watches.ensure(keeper)

    async def _start(self, pool: Pool) -> None:
        namespace, dedicated = pool
        labels = {LABEL_ROLE: "keeper", LABEL_NAMESPACE: namespace}
        if dedicated:
            labels[LABEL_DEDICATED] = dedicated
        try:
            pod = await self._runtime.start(labels)
        except PodError:
            self._back_off(pool)
            raise
        self._adopt(pod)
        whose = f"function {dedicated}" if dedicated else f"namespace {namespace}"
        self._record.event(
            ("pod", NO_NAMESPACE, pod.name),
            "keeper-started",
            f"a keeper was started for {whose}",
            namespace_of=namespace,
            uid=pod.uid,
        )

    async def _replace_unready(self, pool: Pool, now: float) -> None:
        for keeper in tuple(self._world.keepers.values()):
            if (
                (keeper.namespace, keeper.dedicated) == pool
                and keeper.fact is None
                and not keeper.stopping
            ):
                limit_s = COME_S if keeper.uid in self._pending else START_S
                if now - self._started.get(keeper.uid, now) >= limit_s:
                    self._back_off(pool)
                    waited = f"; it waits: {keeper.waits}" if keeper.waits else ""
                    await self.stop(keeper.uid, f"it was not ready within {limit_s:g} s{waited}")

    def _back_off(self, pool: Pool) -> None:
        times = self._failures[pool]
        self._failures[pool] += 1
        # The first one may be an accident.
        delay_s = min(_FIRST_RESTART_S * (2.0 ** min(times, 16) - 1), _LAST_RESTART_S)
        self._not_before[pool] = time.monotonic() + delay_s
