"""Bring each function to what its spec wants: the thin shell around `plan`.

A handler reads everything as it is now, does what follows, and may be run again
at any time. What it cannot do raises, and the work queue tries again later.
"""

import contextlib
import time
from collections import defaultdict

import msgspec
import nats.errors

from schemas import subjects
from schemas.active import ActiveFunction
from schemas.builds import BuildReply, BuildRequest, Source, build_id
from schemas.control import UnloadReply, UnloadRequest
from schemas.unreadable import UNREADABLE
from services.bus.connection import Bus
from services.bus.errors import BusError
from services.scheduler.artifacts import ArtifactError, Artifacts
from services.scheduler.fleet import Fleet
from services.scheduler.function import Instance
from services.scheduler.judging import Judging
from services.scheduler.keepers import ControlError, KeeperClient, UnreachableError
from services.scheduler.loading import Loader
from services.scheduler.nativepod import is_native
from services.scheduler.natives import NativeFleet
from services.scheduler.plan import (
    Action,
    Activate,
    AskIdle,
    ClearStatus,
    Deactivate,
    Drain,
    Forget,
    Load,
    Publish,
    RequestBuild,
    SetStatus,
    Withdraw,
    plan,
)
from services.scheduler.pods import PodError
from services.scheduler.record import DeposedError, Record, spec_correlation
from services.scheduler.scaling import Ask
from services.scheduler.world import FunctionName, World
from services.workqueue import WorkQueue

Key = tuple[str, str, str]
"""A kind of spec with namespace and name, or `POOL` with those of a pool."""
POOL = ""
"""No kind of spec, whatever people publish."""

PARALLEL = 32
LOAD_S = 30.0
"""How long a process that nobody waits for may take to be loaded, a new keeper included."""
_ROUNDS = 20
_AT_ONCE = 16
_BUILDER_S = 2.0
_DRAIN_GRACE_S = 5.0
_ASK_AGAIN_S = 1.0


class BuilderError(Exception):
    """The builder did not take a request."""


class Reconciler:
    """Works on keys in the name of one term."""

    def __init__(
        self,
        bus: Bus,
        world: World,
        record: Record,
        client: KeeperClient,
        loader: Loader,
        fleet: Fleet,
        artifacts: Artifacts,
        natives: NativeFleet | None = None,
    ) -> None:
        self._bus = bus
        self._world = world
        self._record = record
        self._client = client
        self._loader = loader
        self._fleet = fleet
        self._artifacts = artifacts
        self._natives = natives
        self._judging = Judging(world, record, self.put)
        self._waiting_for: defaultdict[str, set[FunctionName]] = defaultdict(set)
        self.queue: WorkQueue[Key] = WorkQueue(
            "reconcile",
            self.handle,
            parallel=PARALLEL,
            expected=(
                BusError,
                BuilderError,
                ControlError,
                DeposedError,
                PodError,
                UnreachableError,
            ),
        )

    def put(self, kind: str, name: FunctionName) -> None:
        """Have an object looked at."""
        self.queue.put((kind, *name))

    def build_changed(self, build: str) -> None:
        """Have the functions looked at that wait for a build."""
        for name in self._waiting_for.pop(build, ()):
            self.put("function", name)

    async def handle(self, key: Key) -> float | None:
        """Look at one key; return in how many seconds to look again."""
        kind, *name = key
        match kind:
            case "function":
                return await self._function((name[0], name[1]))
            case "":
                return await self._fleet.balance((name[0], name[1]))
            case _:
                await self._judging.handle(key)
        return None

    async def _function(self, name: FunctionName) -> float | None:
        for _ in range(_ROUNDS):
            now = time.monotonic()
            again = self._natives.match(name, now) if self._natives else None
            view = self._world.view(name, now)
            if view.build is None or view.build.state in ("queued", "building"):
                self._wait_for_build(name)
            actions = plan(view)
            if not actions:
                break
            for action in actions:
                await self._do(name, action, view.observed)
        else:
            return 1.0
        if self._natives is not None:
            await self._natives.settle(name)
        function = self._world.function(name)
        if view.wanted is None and not function.instances and not function.loading:
            self._world.functions.pop(name, None)
            return None
        # As of the time of the plan: what has become due since is in it only then.
        waits = (again, function.look_again_s(self._world.active.get(name), now))
        return min((wait for wait in waits if wait is not None), default=None)

    def _wait_for_build(self, name: FunctionName) -> None:
        wanted = self._world.wanted(name)
        source = getattr(wanted, "source", None)
        if source is not None:
            self._waiting_for[build_id(source)].add(name)

    async def _do(  # noqa: C901 - one line for each action
        self, name: FunctionName, action: Action, observed: int
    ) -> None:
        key = ("function", *name)
        function = self._world.function(name)
        match action:
            case RequestBuild(source=source, retry=retry):
                await self._request_build(name, source, retry, observed)
            case Load():
                await self._load(name, action, observed)
            case Publish(instance=instance):
                known = function.instances[instance]
                await self._record.publish_endpoint(known.endpoint)
                known.published = True
            case Activate(function=active):
                await self._activate(name, active)
            case Deactivate():
                await self._record.deactivate(key)
                self._took_effect(name, self._world.active.pop(name, None))
            case Withdraw(instance=instance, reason=reason):
                known = function.instances[instance]
                await self._record.withdraw_endpoint(known.endpoint, reason)
                known.published = False
            case Drain(instance=instance, reason=reason):
                await self._drain(name, instance, reason)
            case AskIdle(ask=ask):
                await self._ask_idle(name, ask)
            case Forget(instance=instance):
                await self._bury(function.instances.pop(instance))
            case SetStatus():
                await self._record.set_status(
                    key,
                    action.phase,
                    action.message,
                    observed=observed,
                    active=action.active_revision,
                    field=action.field,
                )
            case ClearStatus():
                await self._record.clear_status(key, f"the function {name[1]} was deleted")

    async def _request_build(
        self, name: FunctionName, source: Source, retry: bool, observed: int
    ) -> None:
        function = self._world.function(name)
        key = ("function", *name)
        correlation = spec_correlation(key, observed)
        request = BuildRequest(source=source, correlation=correlation, retry=retry)
        self._record.check()
        try:
            answer = await self._bus.nc.request(
                subjects.BUILD_REQUESTS.subject(), msgspec.json.encode(request), timeout=_BUILDER_S
            )
            reply = msgspec.json.decode(answer.data, type=BuildReply)
        except (nats.errors.Error, *UNREADABLE) as error:
            function.builder_silent = True
            raise BuilderError(f"the builder does not answer: {error}") from error
        if reply.error is not None or reply.build is None:
            function.builder_silent = True
            raise BuilderError(f"the builder took no request: {reply.error}")
        function.builder_silent = False
        function.asked = build_id(source)
        known = self._world.builds.get(reply.build.id)
        if known is None or known.time <= reply.build.time:
            self._world.builds[reply.build.id] = reply.build
        self._record.event(
            key,
            "build-requested",
            f"the builder was asked for the module of {name[1]}: {reply.build.state}",
            correlation=correlation,
            build=reply.build.id,
        )

    async def _load(self, name: FunctionName, action: Load, observed: int) -> None:
        if action.function.artifact is not None:
            with contextlib.suppress(ArtifactError):  # The load itself says so.
                await self._artifacts.prepare(action.function.artifact)
        self._record.check()
        correlation = spec_correlation(("function", *name), observed)
        # The rest follows when these are there: each is a fork on some keeper.
        for _ in range(min(action.count, _AT_ONCE)):
            self._loader.start(
                action.function, action.reason, within_s=LOAD_S, correlation=correlation
            )
        serving = len(self._world.function(name).instances)
        if serving:
            self._record.event(
                ("function", *name),
                "scaled-up",
                f"{name[1]} goes from {serving} to {serving + action.count} processes:"
                f" {action.reason}",
                correlation=correlation,
            )

    async def _activate(self, name: FunctionName, active: ActiveFunction) -> None:
        await self._record.activate(active)
        before = self._world.active.get(name)
        self._world.active[name] = active
        self._world.function(name).troubles = {
            revision: trouble
            for revision, trouble in self._world.function(name).troubles.items()
            if revision >= active.revision
        }
        self._world.function(name).peak = None
        self._took_effect(name, before)

    def _took_effect(self, name: FunctionName, before: ActiveFunction | None) -> None:
        """Look at what depends on which functions are in force."""
        namespace = name[0]
        if before is not None:
            if before.spec.environment is not None:
                self.put("environment", (namespace, before.spec.environment))
            if before.spec.isolation == "pod":
                self.put(POOL, name)
        self.put(POOL, (namespace, ""))

    async def _drain(self, name: FunctionName, instance: str, reason: str) -> None:
        known = self._world.function(name).instances[instance]
        if self._natives is not None and is_native(known.endpoint):
            self._natives.drain(known, reason)
            return
        active = self._world.active.get(name)
        timeout_s = active.spec.limits.timeout_s if active else 60.0
        reply = await self._unload(
            known, UnloadRequest(instance, "drain", deadline_s=timeout_s + _DRAIN_GRACE_S)
        )
        if reply is not None:
            known.state = "lost" if reply.state == "gone" else "leaving"
            known.reason = reason

    async def _ask_idle(self, name: FunctionName, ask: Ask) -> None:
        function = self._world.function(name)
        known = function.instances[ask.instance]
        if self._natives is not None and is_native(known.endpoint):
            if not self._natives.ask_idle(name, ask, time.monotonic()):
                return
        elif not await self._ask_keeper(known, ask):
            return
        left = sum(one.state == "serving" for one in function.instances.values())
        self._record.event(
            ("function", *name),
            "scaled-down" if left else "scaled-to-zero",
            f"{name[1]} goes to {left} processes: {ask.reason}",
            instance=ask.instance,
        )

    async def _ask_keeper(self, known: Instance, ask: Ask) -> bool:
        """Ask a keeper to end one process if it is idle; return whether it does."""
        reply = await self._unload(known, UnloadRequest(ask.instance, "if_idle", idle_s=ask.idle_s))
        if reply is None:
            return False
        if reply.state == "busy":
            now = time.monotonic()
            known.since = now - reply.idle_s
            known.ask_again = now + _ASK_AGAIN_S
            return False
        known.state = "lost" if reply.state == "gone" else "leaving"
        known.reason = ask.reason
        return True

    async def _bury(self, known: Instance) -> None:
        """Make sure that an instance that was given up runs no more, where that can be."""
        instance = known.endpoint.instance
        keeper = self._world.keepers.get(known.endpoint.pod)
        if keeper is not None and keeper.fact is not None and instance in keeper.held:
            with contextlib.suppress(ControlError, UnreachableError):
                await self._client.unload(keeper.fact, UnloadRequest(instance, "kill"))

    async def _unload(self, known: Instance, request: UnloadRequest) -> UnloadReply | None:
        """Return the answer, or None if the instance is gone."""
        keeper = self._world.keepers.get(known.endpoint.pod)
        if keeper is None or keeper.fact is None:
            if keeper is None:
                known.state, known.reason = "lost", known.reason or "its keeper is gone"
                return None
            raise UnreachableError(f"the keeper {keeper.uid} has not told its address yet")
        self._record.check()
        try:
            return await self._client.unload(keeper.fact, request)
        except ControlError as error:
            if error.problem == "no-such-instance":
                known.state, known.reason = "lost", "its process ended"
                return None
            raise
