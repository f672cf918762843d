"""Load processes of functions: choose a keeper, call it, and know what came of it.

The same for a deploy, for scaling up and for a cold start. A load is counted the
moment it is begun, before anything is awaited, so that no one else decides to
load the same process too. Where no keeper has room it waits for one, and the
fleet sees how many wait.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from schemas.active import ActiveFunction
from schemas.builds import Artifact
from schemas.control import LoadReply, LoadRequest, UnloadRequest
from schemas.endpoints import Endpoint
from schemas.names import new_instance_id, new_token
from services.scheduler import placement
from services.scheduler.artifacts import ArtifactError, Artifacts
from services.scheduler.function import Function, Instance
from services.scheduler.keepers import ControlError, KeeperClient, UnreachableError
from services.scheduler.metrics import LOADS
from services.scheduler.natives import NativeError, NativeFleet
from services.scheduler.record import DeposedError, Record
from services.scheduler.secret_files import SecretError, read_secrets
from services.scheduler.world import FunctionName, Keeper, World

log = logging.getLogger(__name__)

FULL_S: Final = 5.0
"""For how long a keeper that refused for want of room is taken for full."""
_TELL_AFTER_S: Final = 0.002
"""Who waits for a process is answered before it is written down: publishing it and telling the
event log at once held up the answer: 0.60 ms after the call, 0.15 so (medians of 80)."""

Pool = tuple[str, str]
"""Namespace, and the function that the keepers are dedicated to, or an empty string."""


class LoadError(Exception):
    """A process could not be loaded. The message is one sentence for people."""


class NoKeeperYetError(LoadError):
    """The keeper that it would be loaded on waits for a node or its image; nothing is broken."""


class Loaded(msgspec.Struct, frozen=True):
    """A process that serves, and the milliseconds of each step on the way."""

    instance: Instance
    steps_ms: dict[str, float]


def pool_of(function: ActiveFunction) -> Pool:
    """Return which keepers may hold a function."""
    return function.namespace, function.name if function.spec.isolation == "pod" else ""


class Loader:
    """Loads processes in the name of one term."""

    def __init__(
        self,
        world: World,
        record: Record,
        client: KeeperClient,
        artifacts: Artifacts,
        secrets: Path,
        natives: NativeFleet | None = None,
    ) -> None:
        self._world = world
        self._record = record
        self._client = client
        self._artifacts = artifacts
        self._secrets = secrets
        self._natives = natives
        self._tasks: dict[asyncio.Task[Loaded], FunctionName] = {}
        self._calls: dict[asyncio.Timeout, str] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self.waiting: Counter[Pool] = Counter()
        """How many loads wait for a keeper with room."""
        self.on_change: Callable[[FunctionName], None] = lambda name: None
        self.on_want: Callable[[Pool], None] = lambda pool: None

    def start(
        self, function: ActiveFunction, reason: str, *, within_s: float, correlation: str = ""
    ) -> asyncio.Task[Loaded]:
        """Begin to load one process. The task raises LoadError or DeposedError."""
        name = (function.namespace, function.name)
        instance = new_instance_id()
        self._world.function(name).loading[instance] = function.revision
        deadline = time.monotonic() + within_s
        task = asyncio.create_task(self._run(function, instance, reason, deadline, correlation))
        self._tasks[task] = name
        task.add_done_callback(self._done)
        return task

    def under_way(self, name: FunctionName) -> set[asyncio.Task[Loaded]]:
        """Return the loads of a function that have not ended."""
        return {task for task, of in self._tasks.items() if of == name}

    def room_changed(self) -> None:
        """Let loads that wait for room look again."""
        self._room.set()
        self._room = asyncio.Event()

    def interrupt(self, uid: str) -> None:
        """Wait no longer for answers of a keeper that has gone silent."""
        now = asyncio.get_running_loop().time()
        for call, of in self._calls.items():
            if of == uid and not call.expired():
                call.reschedule(now)

    async def close(self) -> None:
        """Give up every load under way."""
        tasks = (*self._tasks, *self._ending)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _done(self, task: asyncio.Task[Loaded]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            level = logging.INFO if isinstance(error, (LoadError, DeposedError)) else logging.ERROR
            log.log(level, "a load failed: %s", error)

    async def _run(
        self,
        function: ActiveFunction,
        instance: str,
        reason: str,
        deadline: float,
        correlation: str,
    ) -> Loaded:
        name = (function.namespace, function.name)
        state = self._world.function(name)
        loop = asyncio.get_running_loop()
        begun = time.monotonic()
        try:
            loaded = await self._load(function, instance, deadline, correlation)
        except LoadError as error:
            LOADS.labels("failed").observe(time.monotonic() - begun)
            if not isinstance(error, NoKeeperYetError):
                self._failed(name, state, function.revision, str(error))
            raise
        finally:
            state.loading.pop(instance, None)
            loop.call_later(_TELL_AFTER_S, self.on_change, name)
        state.instances[instance] = loaded.instance
        state.troubles.pop(function.revision, None)
        LOADS.labels("served").observe(time.monotonic() - begun)
        loop.call_later(_TELL_AFTER_S, self._served, loaded, reason, correlation)
        return loaded

    def _served(self, loaded: Loaded, reason: str, correlation: str) -> None:
        endpoint = loaded.instance.endpoint
        total_ms = loaded.steps_ms["total"]
        self._record.event(
            ("function", endpoint.namespace, endpoint.function),
            "instance-loaded",
            f"a process of {endpoint.function} (revision {endpoint.revision}) serves at"
            f" {endpoint.ip}:{endpoint.port} after {total_ms:.1f} ms: {reason}",
            correlation=correlation,
            duration_ms=total_ms,
            instance=endpoint.instance,
            keeper=endpoint.pod,
            steps_ms=loaded.steps_ms,
        )

    def _failed(self, name: FunctionName, state: Function, revision: int, message: str) -> None:
        delay_s = state.fail(revision, message, time.monotonic())
        self._record.event(
            ("function", *name),
            "load-failed",
            f"a process of {name[1]} (revision {revision}) could not be loaded: {message}",
            level="warning",
            retry_s=delay_s,
        )

    async def _load(
        self, function: ActiveFunction, instance: str, deadline: float, correlation: str
    ) -> Loaded:
        if function.artifact is None:
            return await self._load_native(function, instance)
        begun = time.monotonic()
        request = self._request(function, function.artifact, instance, correlation)
        avoid: set[str] = set()
        problem = ""
        while True:
            keeper = await self._place(function, request.artifact.engine, avoid, deadline, problem)
            placed = time.monotonic()
            keeper.held[instance] = (function.namespace, function.name)
            try:
                reply = await self._call(keeper, request, deadline)
            except (ControlError, UnreachableError) as error:
                keeper.held.pop(instance, None)
                if not keeper.held:
                    keeper.empty_since = time.monotonic()
                if not _another_may_do(error):
                    raise LoadError(str(error)) from error
                if isinstance(error, ControlError) and error.problem == "full":
                    keeper.full_until = time.monotonic() + FULL_S
                elif isinstance(error, UnreachableError):
                    ending = asyncio.create_task(self._abandon(keeper, instance))
                    self._ending.add(ending)
                    ending.add_done_callback(self._ending.discard)
                avoid.add(keeper.uid)
                problem = str(error)
                continue
            if (why := keeper.ended.pop(instance, None)) is not None:
                keeper.held.pop(instance, None)
                raise LoadError(f"its process ended at once: {why}")
            now = time.monotonic()
            steps = {"place": (placed - begun) * 1e3, "call": (now - placed) * 1e3}
            steps |= {f"keeper.{step}": ms for step, ms in reply.steps_ms.items()}
            steps["total"] = (now - begun) * 1e3
            endpoint = _endpoint(request, reply, keeper)
            rounded = {step: round(ms, 3) for step, ms in steps.items()}
            return Loaded(Instance(endpoint=endpoint, loaded=now, since=now), rounded)

    async def _load_native(self, function: ActiveFunction, instance: str) -> Loaded:
        """Have a pod with the function's own image; as long as that takes, whoever waits."""
        begun = time.monotonic()
        if self._natives is None:
            raise LoadError("this platform runs no images by themselves")
        try:
            endpoint = await self._natives.load(function, instance)
        except NativeError as error:
            raise LoadError(str(error)) from error
        now = time.monotonic()
        steps = {"total": round((now - begun) * 1e3, 3)}
        return Loaded(Instance(endpoint=endpoint, loaded=now, since=now), steps)

    def _request(
        self, function: ActiveFunction, artifact: Artifact, instance: str, correlation: str
    ) -> LoadRequest:
        spec = function.spec
        try:
            secrets = read_secrets(self._secrets, function.namespace, spec.secrets)
        except SecretError as error:
            raise LoadError(str(error)) from error
        return LoadRequest(
            instance=instance,
            namespace=function.namespace,
            function=function.name,
            revision=function.revision,
            token=new_token(),
            file_name=function.file_name,
            interface=spec.interface,
            arguments=spec.arguments,
            variables={**spec.variables, **secrets},
            limits=spec.limits,
            concurrency=spec.scaling.concurrency,
            artifact=artifact,
            correlation=correlation,
        )

    async def _place(
        self,
        function: ActiveFunction,
        engine: str,
        avoid: set[str],
        deadline: float,
        problem: str,
    ) -> Keeper:
        """Return a keeper with room, waiting until there is one."""
        name = (function.namespace, function.name)
        pool = pool_of(function)
        waits = False
        try:
            while True:
                keepers = self._world.placeable(name, time.monotonic())
                uid = placement.choose(keepers, *pool, engine, avoid)
                if uid is not None:
                    return self._world.keepers[uid]
                if not waits:
                    waits = True
                    self.waiting[pool] += 1
                self.on_want(pool)
                try:
                    async with asyncio.timeout(deadline - time.monotonic()):
                        await self._room.wait()
                except TimeoutError:
                    if waits_for := self._world.waits(pool):
                        raise NoKeeperYetError(f"no keeper is ready yet; {waits_for}") from None
                    raise LoadError(problem or "no keeper has room for it yet") from None
        finally:
            if waits:
                self.waiting[pool] -= 1

    async def _call(self, keeper: Keeper, request: LoadRequest, deadline: float) -> LoadReply:
        """Make the load call; send the artifact's bytes only if the keeper asks for them."""
        self._record.check()
        artifact = request.artifact
        within_s = max(0.1, deadline - time.monotonic())
        if artifact.sha256 in keeper.artifacts or not keeper.lacks_artifacts:
            try:
                reply = await self._interruptible(keeper, request, b"", within_s)
            except ControlError as error:
                if error.problem != "artifact-missing":
                    raise
                keeper.artifacts.discard(artifact.sha256)
                keeper.lacks_artifacts = True
            else:
                keeper.artifacts.add(artifact.sha256)
                return reply
        try:
            data = await self._artifacts.read(artifact)
        except ArtifactError as error:
            raise LoadError(str(error)) from error
        self._record.check()
        reply = await self._interruptible(keeper, request, data, within_s)
        keeper.artifacts.add(artifact.sha256)
        return reply

    async def _interruptible(
        self, keeper: Keeper, request: LoadRequest, data: bytes, within_s: float
    ) -> LoadReply:
        assert keeper.fact is not None  # noqa: S101 - a keeper with room has told of itself
        # No task of its own, which would cost each cold start two more turns of the loop.
        call = asyncio.timeout(None)
        try:
            async with call:
                self._calls[call] = keeper.uid
                return await self._client.load(keeper.fact, request, data, within_s=within_s)
        except TimeoutError:
            raise UnreachableError(f"the keeper {keeper.uid} has gone silent") from None
        finally:
            self._calls.pop(call, None)

    async def _abandon(self, keeper: Keeper, instance: str) -> None:
        """End what a keeper may have loaded although it did not say so."""
        if keeper.fact is not None:
            try:
                await self._client.unload(keeper.fact, UnloadRequest(instance, "kill"))
            except (ControlError, UnreachableError) as error:
                log.info("the instance %s may be left on %s: %s", instance, keeper.uid, error)


def _another_may_do(error: ControlError | UnreachableError) -> bool:
    """Whether the same load may succeed on another keeper."""
    return isinstance(error, UnreachableError) or error.problem in (
        "full",
        "busy",
        "stale-term",
        "replay",
        "unsigned",
        "internal",
        "timeout",
    )


def _endpoint(request: LoadRequest, reply: LoadReply, keeper: Keeper) -> Endpoint:
    return Endpoint(
        namespace=request.namespace,
        function=request.function,
        instance=request.instance,
        ip=reply.ip,
        port=reply.port,
        pod=keeper.uid,
        node=keeper.fact.node if keeper.fact else "",
        revision=request.revision,
        concurrency=request.concurrency,
        token=request.token,
        time=datetime.now(UTC),
    )
