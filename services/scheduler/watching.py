"""Hold each keeper's watch stream open, and take in what it says.

The stream begins with everything the keeper holds, so a broken one is simply
opened again. What is on the bus but not in the keeper is withdrawn; what is in
the keeper but not on the bus is ended, since nobody knows its token. A keeper
that does not answer is given no more work; after a while it is ended by its
runtime, so that its functions can be elsewhere.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from schemas.control import InstanceState, UnloadRequest, WatchInstance, WatchSnapshot, WatchTick
from services.scheduler.keepers import ControlError, KeeperClient, UnreachableError
from services.scheduler.world import FunctionName, Keeper, World

log = logging.getLogger(__name__)

UNRESPONSIVE_S: Final = 10.0
_PAUSE_S: Final = 0.2
_BLINK_S: Final = 1.0
"""A watch that is back within this was never gone, as far as the fleet is concerned."""
_YOUNG_S: Final = 5.0
"""A process that ends by itself before this age counts as a failed load."""


class Watches:
    """One watch for each keeper that answers."""

    def __init__(self, world: World, client: KeeperClient) -> None:
        self._world = world
        self._client = client
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.on_function: Callable[[FunctionName], None] = lambda name: None
        self.on_room: Callable[[Keeper], None] = lambda keeper: None
        self.on_silent: Callable[[Keeper], None] = lambda keeper: None
        self.on_unresponsive: Callable[[Keeper, str], Awaitable[None]]

    def ensure(self, keeper: Keeper) -> None:
        """Watch `keeper`, which has told that it is ready."""
        if keeper.uid not in self._tasks:
            task = asyncio.create_task(self._watch(keeper), name=f"watch {keeper.uid}")
            self._tasks[keeper.uid] = task
            task.add_done_callback(lambda _: self._tasks.pop(keeper.uid, None))

    def stop(self, uid: str) -> None:
        """Watch a keeper no more."""
        if (task := self._tasks.get(uid)) is not None:
            task.cancel()

    async def close(self) -> None:
        """Close every stream."""
        tasks = tuple(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, keeper: Keeper) -> None:
        answered = time.monotonic()
        while self._world.keepers.get(keeper.uid) is keeper and keeper.fact is not None:
            try:
                async for line in self._client.watch(keeper.fact):
                    answered = time.monotonic()
                    match line:
                        case WatchSnapshot(instances=instances):
                            await self._compare(keeper, instances)
                            keeper.watched = True
                            self.on_room(keeper)
                        case WatchInstance(instance=instance, reason=reason):
                            self._changed(keeper, instance, reason)
                        case WatchTick():
                            pass
                problem = "it ended the watch stream"
            except (ControlError, UnreachableError) as error:
                problem = str(error)
            now = time.monotonic()
            self.on_silent(keeper)
            if keeper.watched:
                keeper.expected_until = now + _BLINK_S
            elif now > keeper.expected_until:
                self.on_room(keeper)  # What it had is not to be counted on any more.
            keeper.watched = False
            silent_s = now - answered
            log.info("the watch of keeper %s broke: %s", keeper.uid, problem)
            if silent_s > UNRESPONSIVE_S and not keeper.stopping:
                await self.on_unresponsive(keeper, problem)
                answered = time.monotonic()
            await asyncio.sleep(_PAUSE_S)

    async def _compare(self, keeper: Keeper, instances: list[InstanceState]) -> None:
        """Lay a complete snapshot over what is known."""
        now = time.monotonic()
        told = {one.instance: one for one in instances if one.state != "gone"}
        keeper.held = {
            instance: name
            for instance, name in keeper.held.items()
            if instance in self._world.function(name).loading
        } | {one.instance: (one.namespace, one.function) for one in told.values()}
        keeper.empty_since = now
        for name, function in self._world.functions.items():
            for instance, known in function.instances.items():
                if known.endpoint.pod != keeper.uid:
                    continue
                if instance not in told:
                    known.state, known.reason = "lost", "its process ended"
                    self.on_function(name)
                elif told[instance].state == "draining":
                    known.state = "leaving"
                    self.on_function(name)
                else:
                    known.since = max(known.since, now - told[instance].idle_s)
        for instance, one in told.items():
            function = self._world.function((one.namespace, one.function))
            if instance not in function.instances and instance not in function.loading:
                await self._end_orphan(keeper, one)

    async def _end_orphan(self, keeper: Keeper, one: InstanceState) -> None:
        """End an instance without an endpoint: the leader that began its load is gone."""
        if keeper.fact is None or one.state == "draining":
            return
        if self._world.found_nothing and (one.namespace, one.function) not in self._world.active:
            # NATS has lost its data, more likely than that all was deleted unseen.
            log.warning("the instance %s is of a function that nobody knows", one.instance)
            return
        log.info("ending the instance %s on %s, which nobody knows", one.instance, keeper.uid)
        try:
            await self._client.unload(keeper.fact, UnloadRequest(one.instance, "kill"))
        except ControlError as error:
            log.info("the instance %s could not be ended: %s", one.instance, error)

    def _changed(self, keeper: Keeper, one: InstanceState, reason: str) -> None:
        name = (one.namespace, one.function)
        function = self._world.function(name)
        known = function.instances.get(one.instance)
        if one.state != "gone":
            if one.state == "draining" and known is not None and known.state == "serving":
                known.state, known.reason = "leaving", reason or "it is draining"
                self.on_function(name)
            return
        if one.instance in function.loading:
            keeper.ended[one.instance] = reason or "no reason was given"
            return
        keeper.held.pop(one.instance, None)
        if not keeper.held:
            keeper.empty_since = time.monotonic()
        if known is not None:
            if known.state == "serving" and time.monotonic() - known.loaded < _YOUNG_S:
                # Loading it again at once would go on for ever.
                function.fail(
                    known.endpoint.revision,
                    f"its process ended soon after its start: {reason}",
                    time.monotonic(),
                )
            known.state, known.reason = "lost", reason or "its process ended"
            self.on_function(name)
        self.on_room(keeper)
