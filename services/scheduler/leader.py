"""Lead for one term: know everything first, adopt what runs, and only then decide.

Everything here lives as long as the term. A standby knows nothing and holds
nothing but its place in the election; a new leader rebuilds from complete
snapshots, in this order: what is in force and where it serves (its own words, or
its predecessor's), what is wanted and built and which pods there are (followed),
then the runtime's list and what the keepers say. Losing the term cancels all of
it at once; keepers keep running for whoever leads next.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import nats.errors
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nats.js.errors import APIError

from schemas import subjects
from schemas.builds import Build
from schemas.events import NO_NAMESPACE, Level, new_event
from schemas.pods import LABEL_ROLE, ROLE_FUNCTION, PodFact
from schemas.streams import BUILDS, PODS, SPECS
from services.bus.connection import Bus
from services.bus.errors import BusError
from services.bus.events import EventLog
from services.bus.follow import follow
from services.bus.lease import Reign
from services.bus.state import Deleted, Entry, Put, Replaced, Snapshot
from services.scheduler.artifacts import Artifacts
from services.scheduler.audience import Audience
from services.scheduler.demand import Demands, listening
from services.scheduler.fleet import Fleet, FleetSettings
from services.scheduler.judge import judge
from services.scheduler.keepers import KeeperClient
from services.scheduler.loading import Loader
from services.scheduler.memory import Memory
from services.scheduler.natives import NativeFleet
from services.scheduler.pods import PodError, PodRuntime
from services.scheduler.pods.native import NativeRuntime
from services.scheduler.recall import decode, recall
from services.scheduler.reconcile import POOL, Reconciler
from services.scheduler.record import DeposedError, Record
from services.scheduler.settings import SchedulerSettings
from services.scheduler.timers import Timers
from services.scheduler.watching import Watches
from services.scheduler.world import FunctionName, Keeper, Object, Spec, World

log = logging.getLogger(__name__)

SURVEY_S: Final = 10.0
"""How often the runtime's list is read again, besides what it tells by itself."""

_REQUEST_S: Final = 2.0
_PAUSE_S: Final = 0.2

T = TypeVar("T")

_BUILD: Final = msgspec.json.Decoder(Build)
_FACT: Final = msgspec.json.Decoder(PodFact)


class Leader:
    """One term of scheduling: who knows what, and who tells whom."""

    def __init__(
        self,
        bus: Bus,
        events: EventLog,
        reign: Reign,
        settings: SchedulerSettings,
        key: Ed25519PrivateKey,
        runtime: PodRuntime,
        artifacts: Artifacts,
        memory: Memory,
        deployments: NativeRuntime | None = None,
    ) -> None:
        self._bus = bus
        self._memory = memory
        self._events = events
        self._reign = reign
        self._runtime = runtime
        self.world = World(runs_images=deployments is not None)
        self._audience = Audience()
        self._record = Record(bus, events, reign, self.world, self._audience)
        client = KeeperClient(key, reign.term)
        self._natives = (
            None if deployments is None else NativeFleet(deployments, self.world, self._record)
        )
        self._loader = Loader(
            self.world, self._record, client, artifacts, Path(settings.secrets_dir), self._natives
        )
        self._watches = Watches(self.world, client)
        self._fleet = Fleet(
            FleetSettings(
                warm_namespaces=settings.warm_namespaces,
                capacity=settings.keeper_capacity,
                max_keepers=settings.max_keepers,
                linger_s=settings.keeper_linger_s,
            ),
            runtime,
            self.world,
            self._record,
            self._loader,
            self._watches,
        )
        self._reconciler = Reconciler(
            bus,
            self.world,
            self._record,
            client,
            self._loader,
            self._fleet,
            artifacts,
            self._natives,
        )
        self._demands = Demands(self.world, self._loader)
        self._warm = settings.warm_namespaces
        self._applications = settings.applications
        self._wire()

    def _wire(self) -> None:
        """Have everyone who notices something put what it concerns on the queue."""
        put = self._reconciler.put

        def function(name: FunctionName) -> None:
            put("function", name)

        def room(keeper: Keeper) -> None:
            self._loader.room_changed()
            put(POOL, (keeper.namespace, keeper.dedicated))

        async def unresponsive(keeper: Keeper, problem: str) -> None:
            try:
                await self._fleet.stop(keeper.uid, f"it did not answer: {problem}", patience_s=1.0)
            except (PodError, DeposedError) as error:
                log.warning("%s", error)

        self._loader.on_change = function
        self._loader.on_want = lambda pool: put(POOL, pool)
        self._watches.on_function = function
        self._watches.on_room = room
        self._watches.on_silent = lambda keeper: self._loader.interrupt(keeper.uid)
        self._watches.on_unresponsive = unresponsive
        self._fleet.on_function = function
        self._fleet.on_pool = lambda pool: put(POOL, pool)
        self._demands.on_function = function
        if self._natives is not None:
            self._natives.on_function = function

    async def govern(self, ready: Callable[[], None]) -> None:
        """Lead until cancelled. `ready` is called when demands are answered."""
        begun = time.monotonic()
        try:
            async with asyncio.TaskGroup() as parts:
                await self._recall_at_last()
                await self._follow_all(parts)
                self.world.found_nothing = not (self.world.specs or self.world.active)
                await self._adopt()
                parts.create_task(self._reconciler.queue.run(), name="reconcile")
                parts.create_task(self._surveys(), name="survey")
                parts.create_task(self._ends(), name="ended pods")
                parts.create_task(Timers(self._bus, self.world, self._record).run(), name="timers")
                if self._natives is not None:
                    parts.create_task(self._natives.follow(), name="natives")
                self._look_at_everything()
                async with listening(self._bus, self._demands, self._audience):
                    self._tell(
                        "leader-elected",
                        f"this scheduler leads in term {self._reign.term}, and has adopted"
                        f" {len(self.world.keepers)} keepers",
                        duration_ms=(time.monotonic() - begun) * 1e3,
                    )
                    ready()
                    try:
                        await asyncio.Event().wait()
                    finally:
                        await self._loader.close()
        finally:
            self._tell("leader-lost", f"this scheduler leads no more; term {self._reign.term} ends")
            await self._loader.close()
            await self._watches.close()

    async def _recall_at_last(self) -> None:
        """Read it, however often the bus fails meanwhile."""
        while True:
            try:
                await recall(self._bus, self.world, self._record, self._memory, self._tell_loss)
            except (BusError, nats.errors.Error, APIError, TimeoutError, DeposedError) as error:
                log.warning("cannot read yet what is in force: %s", str(error) or "no answer")
                await asyncio.sleep(_PAUSE_S)
            else:
                return

    def _tell_loss(self, message: str) -> None:
        self._tell("data-lost", message, level="warning")

    async def _follow_all(self, parts: asyncio.TaskGroup) -> None:
        """Follow what others write; return when a complete snapshot of each was taken in."""
        for stream, put, deleted in (
            (BUILDS.name, self._put_build, self._delete_build),
            (PODS.name, self._put_fact, None),
            (SPECS.name, self._put_spec, self._delete_spec),
        ):
            complete = asyncio.Event()
            parts.create_task(self._follow(stream, put, deleted, complete), name=f"follow {stream}")
            await complete.wait()

    async def _follow(
        self,
        stream: str,
        put: Callable[[Entry, bool], None],
        deleted: Callable[[str, bool], None] | None,
        complete: asyncio.Event,
    ) -> None:
        # What is in force without a spec is deleted like everything else.
        async for update in follow(self._bus, stream, tombstones=deleted is not None):
            match update:
                case Snapshot(entries, gone):
                    for entry in entries:
                        put(entry, False)
                    if deleted is not None:
                        for subject in gone:
                            deleted(subject, False)
                    complete.set()
                case Put(entry):
                    put(entry, True)
                case Deleted(subject):
                    if deleted is not None:
                        deleted(subject, True)
                case Replaced():
                    self._tell(
                        "stream-replaced",
                        f"the stream {stream} on NATS is a new one, as after the loss of its data;"
                        " what runs is kept: publish the specs again",
                    )

    def _put_spec(self, entry: Entry, news: bool) -> None:
        tokens = subjects.SPECS.parse(entry.subject)
        if tokens is None:
            log.warning("ignoring a spec on the subject %s, which names no object", entry.subject)
            return
        key = (tokens["kind"], tokens["namespace"], tokens["name"])
        verdict = judge(*key, entry.payload, self._applications)
        self.world.put_spec(key, Spec(entry.sequence, verdict))
        if news:
            self._spec_event(key, "spec-published", f"revision {entry.sequence} was published")
            self._look_at(key)

    def _delete_spec(self, subject: str, news: bool) -> None:
        if (tokens := subjects.SPECS.parse(subject)) is not None:
            key = (tokens["kind"], tokens["namespace"], tokens["name"])
            if news:
                self._spec_event(key, "spec-deleted", "it was deleted")
            self.world.put_spec(key, None)
            self._look_at(key)

    def _spec_event(self, key: Object, what: str, text: str) -> None:
        self._record.event(key, what, f"{key[0]} {key[2]}: {text}")

    def _put_build(self, entry: Entry, news: bool) -> None:
        if (build := decode(entry, _BUILD)) is not None:
            self.world.builds[build.id] = build
            if news:
                self._reconciler.build_changed(build.id)

    def _delete_build(self, subject: str, news: bool) -> None:
        # Collected by the builder, with its artifact: whoever wants it again has to ask.
        if (tokens := subjects.BUILDS.parse(subject)) is not None:
            self.world.builds.pop(tokens["build"], None)

    def _put_fact(self, entry: Entry, news: bool) -> None:
        if (fact := decode(entry, _FACT)) is not None:
            if fact.labels.get(LABEL_ROLE) == ROLE_FUNCTION:
                if self._natives is not None:
                    self._natives.told(fact)
                return
            self._fleet.told(fact)
            if news:
                self._loader.room_changed()

    async def _adopt(self) -> None:
        """Take over the pods that run; what was on others is gone."""
        while True:
            try:
                await self._survey()
                break
            except PodError as error:
                # Without a list nothing can be decided, and nothing is given up.
                log.warning("waiting for the pod runtime: %s", error)
                await asyncio.sleep(1.0)
        self._fleet.orphaned_endpoints()

    def _look_at_everything(self) -> None:
        for namespace in self._warm:
            self._reconciler.put(POOL, (namespace, ""))
        for name in self.world.environments:
            self._look_at(("environment", *name))
        # In the order of publishing, so that of two routes the first has it.
        for key, _ in sorted(self.world.specs.items(), key=lambda item: item[1].revision):
            self._look_at(key)
        for kind, names in self.world.in_force():
            for name in names:
                self._look_at((kind, *name))
        for name in (*self.world.functions, *(self._natives.functions() if self._natives else ())):
            self._look_at(("function", *name))
        for key in self.world.statuses:
            self._look_at(key)
        for namespace in {of for kind, of, _ in self.world.specs if kind == "function"}:
            self._reconciler.put(POOL, (namespace, ""))

    def _look_at(self, key: Object) -> None:
        kind, namespace, name = key
        self._reconciler.put(kind, (namespace, name))

    async def _surveys(self) -> None:
        while True:
            await asyncio.sleep(SURVEY_S)
            try:
                await self._survey()
            except PodError as error:
                log.warning("the list of pods could not be read; nothing is given up: %s", error)

    async def _survey(self) -> None:
        await self._fleet.survey()
        if self._natives is not None:
            await self._natives.survey()

    async def _ends(self) -> None:
        async for uid in self._runtime.ended():
            self._fleet.lost(uid, "it ended, or was told to")

    def _tell(
        self,
        what: str,
        message: str,
        *,
        level: Level = "info",
        duration_ms: float | None = None,
    ) -> None:
        self._events.emit(
            new_event(
                "scheduler",
                NO_NAMESPACE,
                "lease",
                "scheduler",
                what,
                message,
                level=level,
                duration_ms=duration_ms,
                term=self._reign.term,
            )
        )
