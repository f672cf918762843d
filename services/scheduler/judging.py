"""Put in force what needs no more than to be judged: all kinds but functions.

Also what has no kind that the platform knows: it is refused like any other spec
that is wrong. Handlers are level-triggered, as those of functions are.
"""

from collections.abc import Callable
from typing import Any

from schemas.active import ActiveEnvironment, ActiveRoute, ActiveSubscription, ActiveTimer
from schemas.specs import EnvironmentSpec, RouteSpec, SubscriptionSpec, TimerSpec
from schemas.status import NO_SPEC
from services.scheduler.judge import Rejected
from services.scheduler.record import Record
from services.scheduler.world import BEREFT, REMEMBERED, FunctionName, Object, World


class Judging:
    """Works on one object at a time; `look_at` has others looked at that depend on it."""

    def __init__(
        self, world: World, record: Record, look_at: Callable[[str, FunctionName], None]
    ) -> None:
        self._world = world
        self._record = record
        self._look_at = look_at

    async def handle(self, key: Object) -> None:
        """Look at one object."""
        kind, namespace, name = key
        if key in self._world.bereft:
            await self._record.set_status(
                key, "waiting", BEREFT, observed=NO_SPEC, active=REMEMBERED
            )
            return
        match kind:
            case "environment":
                await self._environment((namespace, name))
            case "route":
                await self._route((namespace, name))
            case "timer" | "subscription":
                await self._trigger(key)
            case _:
                await self._unknown(key)

    async def _environment(self, name: FunctionName) -> None:
        key = ("environment", *name)
        spec = self._world.specs.get(key)
        active = self._world.environments.get(name)
        if spec is None:
            if active is not None and (users := self._world.environment_users(name)):
                await self._record.set_status(
                    key,
                    "active",
                    f"it cannot be deleted while it is used by {_names(users)};"
                    " it stays in force until they are deleted or use another",
                    observed=NO_SPEC,
                    active=active.revision,
                )
                return
            if active is not None:
                await self._record.deactivate(key)
                del self._world.environments[name]
            if key in self._world.statuses:
                await self._record.clear_status(key, f"the environment {name[1]} was deleted")
            return
        if isinstance(spec.verdict, EnvironmentSpec) and (
            active is None or active.revision != spec.revision
        ):
            active = ActiveEnvironment(name[0], name[1], spec.revision, spec.verdict)
            await self._record.activate(active)
            self._world.environments[name] = active
            for user in self._world.environment_users(name):
                self._look_at("function", (name[0], user))
        await self._judged(key, active.revision if active else None)

    async def _route(self, name: FunctionName) -> None:
        key = ("route", *name)
        spec = self._world.specs.get(key)
        active = self._world.routes.get(name)
        self._world.refused_routes.discard(name)
        if spec is None:
            if active is not None:
                await self._record.deactivate(key)
                del self._world.routes[name]
                self._release(name)
            if key in self._world.statuses:
                await self._record.clear_status(key, f"the route {name[1]} was deleted")
            return
        collision = None
        if isinstance(spec.verdict, RouteSpec):
            collision = self._world.claims.collision(name, spec.verdict)
            if collision is not None:
                self._world.refused_routes.add(name)
            elif active is None or active.revision != spec.revision:
                # Taken before anything is awaited: the first to be judged has it.
                self._world.claims.take(name, spec.verdict)
                wanted = ActiveRoute(name[0], name[1], spec.revision, spec.verdict)
                try:
                    await self._record.activate(wanted)
                except BaseException:
                    self._release(name)
                    if active is not None:
                        self._world.claims.take(name, active.spec)
                    raise
                active = self._world.routes[name] = wanted
                self._judge_refused()
        await self._judged(key, active.revision if active else None, collision)

    async def _trigger(self, key: Object) -> None:
        """Put what calls a function in force, or take it out. It collides with nothing."""
        kind, namespace, name = key
        spec = self._world.specs.get(key)
        held: dict[FunctionName, Any] = (
            self._world.timers if kind == "timer" else self._world.subscriptions
        )
        active = held.get((namespace, name))
        if spec is None:
            if active is not None:
                await self._record.deactivate(key)
                del held[namespace, name]
            if key in self._world.statuses:
                await self._record.clear_status(key, f"the {kind} {name} was deleted")
            return
        if active is None or active.revision != spec.revision:
            wanted: ActiveTimer | ActiveSubscription | None = None
            if isinstance(spec.verdict, TimerSpec):
                wanted = ActiveTimer(namespace, name, spec.revision, spec.verdict)
            elif isinstance(spec.verdict, SubscriptionSpec):
                wanted = ActiveSubscription(namespace, name, spec.revision, spec.verdict)
            if wanted is not None:
                await self._record.activate(wanted)
                active = held[namespace, name] = wanted
        await self._judged(key, active.revision if active else None)

    def _release(self, name: FunctionName) -> None:
        self._world.claims.release(name)
        self._judge_refused()

    def _judge_refused(self) -> None:
        """Look again at routes that had to stand back: what they want may be free now."""
        for refused in self._world.refused_routes:
            self._look_at("route", refused)

    async def _unknown(self, key: Object) -> None:
        if key in self._world.specs:
            await self._judged(key, None)
        elif key in self._world.statuses:
            await self._record.clear_status(key, f"the {key[0]} {key[2]} was deleted")

    async def _judged(self, key: Object, active: int | None, found: Rejected | None = None) -> None:
        """Say what the verdict about an environment or a route is."""
        spec = self._world.specs[key]
        rejected = spec.verdict if isinstance(spec.verdict, Rejected) else found
        await self._record.set_status(
            key,
            "rejected" if rejected else "active",
            rejected.message if rejected else f"revision {spec.revision} is in force",
            observed=spec.revision,
            active=active,
            field=rejected.field if rejected else None,
        )


def _names(names: list[str], shown: int = 5) -> str:
    """Return a list of functions for a sentence."""
    word = "function" if len(names) == 1 else "functions"
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{word} {', '.join(names[:shown])}{more}"
