"""What the leading scheduler knows, from streams, keepers and its own calls.

Plain data without I/O: a new leader begins with an empty one and fills it. What
is written to the bus is written here first, so that a decision never waits for
its own echo.
"""

import math
from collections.abc import Iterable, Iterator

import msgspec

from schemas.active import (
    Active,
    ActiveEnvironment,
    ActiveFunction,
    ActiveRoute,
    ActiveSubscription,
    ActiveTimer,
)
from schemas.builds import Build, build_id
from schemas.pods import PodFact
from schemas.specs import AnySpec, FunctionSpec
from schemas.status import NO_SPEC, Status
from services.scheduler import placement
from services.scheduler.function import Function
from services.scheduler.judge import Rejected, Resolved, Waiting, resolve
from services.scheduler.plan import Failure, Process, View
from services.scheduler.routes import Claims

Object = tuple[str, str, str]
"""Kind, namespace and name."""
FunctionName = tuple[str, str]
"""Namespace and name."""

BEREFT = (
    "its spec was lost with the data of NATS; it stays in force as it was until it is published"
    " again, as by `wasmfn apply`"
)
REMEMBERED = 0
"""Revision of what was in force when NATS lost its data: less than any of the new streams."""


class Spec(msgspec.Struct, frozen=True):
    """The last spec published of an object, and what it was judged to be."""

    revision: int
    verdict: AnySpec | Rejected


class Keeper(msgspec.Struct, kw_only=True):
    """A keeper pod."""

    uid: str
    name: str
    namespace: str
    dedicated: str = ""
    fact: PodFact | None = None
    """What podwatch says of it."""
    watched: bool = False
    """Its watch stream is open and has told everything it holds."""
    expected_until: float = math.inf
    """Monotonic: until then it is expected to be watched (again) any moment."""
    stopping: bool = False
    waits: str = ""
    """What its pod waits for before it can run, once that takes longer than usual."""
    outdated: bool = False
    """A pod made now would be made otherwise."""
    retiring: bool = False
    """What it holds is moved to others."""
    held: dict[str, FunctionName] = {}
    """Instance -> function, of what it holds or is being asked to load."""
    ended: dict[str, str] = {}
    """Instances that ended while their load call was under way -> reason."""
    artifacts: set[str] = set()
    """Digests of the artifacts that it is known to have."""
    lacks_artifacts: bool = False
    """It has asked for an artifact once, so it does not share our cache."""
    empty_since: float = 0.0
    full_until: float = 0.0
    """It has refused a load for want of room."""


class World:
    """Everything that the leader knows."""

    def __init__(self, *, runs_images: bool = False) -> None:
        """Begin with nothing. `runs_images`: whether functions can run as images of their own."""
        self.runs_images = runs_images
        self.specs: dict[Object, Spec] = {}
        self.environments: dict[FunctionName, ActiveEnvironment] = {}
        self.active: dict[FunctionName, ActiveFunction] = {}
        self.routes: dict[FunctionName, ActiveRoute] = {}
        self.timers: dict[FunctionName, ActiveTimer] = {}
        self.subscriptions: dict[FunctionName, ActiveSubscription] = {}
        self.claims = Claims()
        self.statuses: dict[Object, Status] = {}
        self.builds: dict[str, Build] = {}
        self.functions: dict[FunctionName, Function] = {}
        self.keepers: dict[str, Keeper] = {}
        self.facts: dict[str, PodFact] = {}
        self.refused_routes: set[FunctionName] = set()
        """Those that collide with another, and are judged again when one goes."""
        self.found_nothing = False
        """Nothing was in force and nothing wanted when the term began."""
        self.bereft: set[Object] = set()
        """What is in force though its spec was lost with the data of NATS. It stays."""
        self.users: dict[FunctionName, set[str]] = {}
        """Environment -> names of the functions whose spec names it."""

    def put_active(self, active: Active) -> None:
        """Take in an object that is in force."""
        name = (active.namespace, active.name)
        match active:
            case ActiveFunction():
                self.active[name] = active
            case ActiveRoute():
                self.routes[name] = active
                self.claims.take(name, active.spec)
            case ActiveEnvironment():
                self.environments[name] = active
            case ActiveTimer():
                self.timers[name] = active
            case ActiveSubscription():
                self.subscriptions[name] = active

    def in_force(self) -> tuple[tuple[str, Iterable[FunctionName]], ...]:
        """Return the names of what is in force, by kind; environments have their own order."""
        return (
            ("function", self.active),
            ("route", self.routes),
            ("timer", self.timers),
            ("subscription", self.subscriptions),
        )

    def function(self, name: FunctionName) -> Function:
        """Return what is known of a function, which may be nothing yet."""
        return self.functions.setdefault(name, Function())

    def environment_users(self, environment: FunctionName) -> list[str]:
        """Return the functions that use an environment, by their spec or by what is in force."""
        namespace, name = environment
        users = set(self.users.get(environment, ()))
        users |= {
            function
            for (of, function), active in self.active.items()
            if of == namespace and active.spec.environment == name
        }
        return sorted(users)

    def put_spec(self, key: Object, spec: Spec | None) -> None:
        """Take in a spec, or that it was deleted."""
        kind, namespace, name = key
        before = self.specs.get(key)
        self.bereft.discard(key)
        if spec is None:
            self.specs.pop(key, None)
        else:
            self.specs[key] = spec
        if kind == "function":
            for record in (before, spec):
                if record is not None and isinstance(record.verdict, FunctionSpec):
                    environment = record.verdict.environment
                    if environment is not None:
                        users = self.users.setdefault((namespace, environment), set())
                        (users.add if record is spec else users.discard)(name)

    def wanted(self, name: FunctionName) -> Resolved | Waiting | Rejected | None:
        """Return what a function's spec comes to now."""
        spec = self.specs.get(("function", *name))
        if spec is None:
            return Waiting(BEREFT) if ("function", *name) in self.bereft else None
        if not isinstance(spec.verdict, FunctionSpec):
            assert isinstance(spec.verdict, Rejected)  # noqa: S101 - a spec of this kind or none
            return spec.verdict
        environment = spec.verdict.environment
        found = self.environments.get((name[0], environment)) if environment else None
        return resolve(spec.verdict, spec.revision, found, runs_images=self.runs_images)

    def view(self, name: FunctionName, now: float) -> View:
        """Return everything that matters to one function."""
        function = self.function(name)
        wanted = self.wanted(name)
        active = self.active.get(name)
        spec = self.specs.get(("function", *name))
        source = wanted.source if isinstance(wanted, Resolved) else None
        build = build_id(source) if source is not None else ""
        return View(
            namespace=name[0],
            name=name[1],
            observed=spec.revision if spec else NO_SPEC,
            wanted=wanted,
            active=active,
            build=self.builds.get(build),
            build_asked=bool(build) and function.asked == build,
            builder_silent=function.builder_silent,
            engine=self.engine(),
            processes=tuple(self._processes(function)),
            load=function.load(now),
            waits=function.waits or self.waits((name[0], name[1] if _is_alone(wanted) else "")),
            failures=tuple(
                Failure(revision, trouble.message, may_retry=now >= trouble.until)
                for revision, trouble in function.troubles.items()
            ),
            ask=function.ask(active, now) if active is not None else None,
            status=self.statuses.get(("function", *name)),
        )

    def caches_apart(self) -> bool:
        """Whether keepers have caches of their own: then a new one has no artifact yet."""
        return any(keeper.lacks_artifacts for keeper in self.keepers.values())

    def engine(self) -> str:
        """Return the engine hash of the keepers that run, or an empty string.

        While keepers of two versions run, what the newest has is what counts.
        """
        ready = [k.fact for k in self.keepers.values() if k.fact is not None and k.fact.ready]
        return max(ready, key=lambda fact: fact.time).engine if ready else ""

    def waits(self, pool: FunctionName) -> str:
        """Return why the keepers of a pool that are to come do not, as far as that is known."""
        for keeper in self.keepers.values():
            if (keeper.namespace, keeper.dedicated) == pool and keeper.waits:
                return f"{keeper.name}: {keeper.waits}"
        return ""

    def _processes(self, function: Function) -> Iterator[Process]:
        for instance, known in function.instances.items():
            keeper = self.keepers.get(known.endpoint.pod)
            yield Process(
                instance,
                known.endpoint.revision,
                known.state,
                known.published,
                known.reason,
                moving=keeper is not None and keeper.retiring,
            )
        for instance, revision in function.loading.items():
            yield Process(instance, revision, "loading", published=False)

    def placeable(self, name: FunctionName, now: float) -> list[placement.Keeper]:
        """Return the keepers of the function's namespace as placement sees them."""
        namespace, _ = name
        return [
            placement.Keeper(
                uid=keeper.uid,
                namespace=keeper.namespace,
                dedicated=keeper.dedicated,
                ready=(
                    keeper.watched
                    and keeper.fact is not None
                    and keeper.fact.ready
                    and not keeper.stopping
                ),
                starting=(
                    not keeper.watched and now < keeper.expected_until and not keeper.stopping
                ),
                engine=keeper.fact.engine if keeper.fact else "",
                capacity=(
                    len(keeper.held)
                    if keeper.full_until > now
                    else keeper.fact.capacity
                    if keeper.fact
                    else 0
                ),
                held=len(keeper.held),
                of_function=sum(held == name for held in keeper.held.values()),
                idle_s=0.0 if keeper.held else now - keeper.empty_since,
                outdated=keeper.outdated,
                retiring=keeper.retiring,
            )
            for keeper in self.keepers.values()
            if keeper.namespace == namespace
        ]

    def has_functions(self, namespace: str) -> bool:
        """Whether anything in a namespace is, or is going to be, run by keepers."""
        return any(
            of == namespace and active.spec.executor == "keeper"
            for (of, _), active in self.active.items()
        ) or any(
            kind == "function"
            and of == namespace
            and isinstance(spec.verdict, FunctionSpec)
            and spec.verdict.executor == "keeper"
            for (kind, of, _), spec in self.specs.items()
        )


def _is_alone(wanted: Resolved | Waiting | Rejected | None) -> bool:
    return isinstance(wanted, Resolved) and wanted.spec.isolation == "pod"
