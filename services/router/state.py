"""What the router serves, in memory, and what each message of the bus changes in it.

Plain data and functions over it: no clock, no bus, no sockets. Each `apply_*`
returns the functions that may have gained an endpoint, so that the shell can
look at who is parked for them.

Instances and pods are known by ids that are never reused, so what is once
known of an id stays true: a dead pod's endpoints do not come back, nor does an
instance that was withdrawn, even if an old message or a late answer of the
scheduler names it. Those memories are bounded; the oldest are forgotten.
"""

from collections.abc import Hashable, Iterable, Iterator
from sys import intern
from typing import Final, Generic, TypeVar

import msgspec

from schemas import subjects
from schemas.active import Active, ActiveFunction, ActiveRoute, ActiveSubscription
from schemas.endpoints import Endpoint
from schemas.pods import PodFact
from schemas.specs import Asynchronous, Interface, SubscriptionSpec
from services.router.choice import FOREVER, Ejection
from services.router.fleet import Candidate, Fleet
from services.router.table import NOBODY, Key, Route, Table, compact

_REMEMBERED: Final = 65_536
_DEFAULTS: Final = Asynchronous()
"""What most functions have, once for all of them."""

H = TypeVar("H", bound=Hashable)


class Memory(Generic[H]):
    """A set that forgets its oldest members when it is full."""

    def __init__(self, limit: int = _REMEMBERED) -> None:
        self._limit = limit
        self._members: dict[H, None] = {}

    def add(self, member: H) -> None:
        """Remember `member`."""
        self._members[member] = None
        if len(self._members) > self._limit:
            del self._members[next(iter(self._members))]

    def __contains__(self, member: H) -> bool:
        return member in self._members


class Function(msgspec.Struct, frozen=True, gc=False):
    """What the router needs of a function in force."""

    key: Key
    revision: int
    timeout_s: float
    body_bytes: int
    interface: Interface = "args"
    asynchronous: Asynchronous = _DEFAULTS


class State:
    """Everything the router knows."""

    def __init__(self) -> None:
        self.complete = False
        """Everything there was at the start has been read."""
        self.edition = 0
        """Grows with each change of a route or function."""
        self.table = Table()
        self.functions: dict[Key, Function] = {}
        self.subscriptions: dict[Key, SubscriptionSpec] = {}
        self.fleets: dict[Key, Fleet] = {}
        """A fleet stays while its function is in force, or it has an endpoint, or a call."""
        self.nobody = Fleet(NOBODY)
        """Counts what no function was found for."""
        self.dead_pods: Memory[str] = Memory()
        self.withdrawn: Memory[str] = Memory()
        self._of_pod: dict[str, set[Candidate]] = {}

    def put_route(self, route: Route) -> None:
        """Put a route in force, in place of the one of its name."""
        self.edition += 1
        self.table.put(route)

    def remove_route(self, name: Key) -> None:
        """Take a route out of force, if it is."""
        self.edition += 1
        self.table.remove(name)

    def put_function(self, function: Function) -> None:
        """Put a function in force, in place of the one of its name."""
        self.edition += 1
        self.functions[function.key] = function

    def remove_function(self, name: Key) -> None:
        """Take a function out of force, if it is."""
        self.edition += 1
        self.functions.pop(name, None)
        fleet = self.fleets.get(name)
        if fleet is not None:
            self.dismiss(fleet)

    def fleet(self, function: Key) -> Fleet:
        """Return what there is of a function that is asked for or has an endpoint."""
        fleet = self.fleets.get(function)
        if fleet is None:
            known = self.functions.get(function)
            function = function if known is None else known.key
            fleet = self.fleets[function] = Fleet(function)
        return fleet

    def answers(self) -> dict[Key, int]:
        """Return how many answers each function has given that has given any."""
        return {
            function: sum(fleet.tally.classes)
            for function, fleet in self.fleets.items()
            if fleet.tally is not None
        }

    def counted(self) -> Iterator[Fleet]:
        """Yield each fleet, and last the one that stands for none."""
        yield from self.fleets.values()
        yield self.nobody

    def candidates(self, function: Key) -> list[Candidate]:
        """Return the endpoints of `function`, usable or not."""
        fleet = self.fleets.get(function)
        return fleet.candidates if fleet is not None else []

    def put_endpoint(self, endpoint: Endpoint) -> bool:
        """Add or replace an endpoint; False if it is known to be gone."""
        if endpoint.pod in self.dead_pods or endpoint.instance in self.withdrawn:
            return False
        fleet = self.fleet((intern(endpoint.namespace), intern(endpoint.function)))
        candidate = fleet.find(endpoint.instance)
        if candidate is not None:
            self._unlink(candidate)
            candidate.endpoint = _interned(endpoint)
        else:
            candidate = Candidate(_interned(endpoint), fleet)
            fleet.candidates.append(candidate)
        self._of_pod.setdefault(endpoint.pod, set()).add(candidate)
        return True

    def withdraw(self, function: Key, instance: str) -> None:
        """Take an instance out for good. What it is doing goes on."""
        self.withdrawn.add(instance)
        self._remove(function, instance)

    def kill_pod(self, uid: str) -> list[Candidate]:
        """Take out every endpoint of a pod that is dead."""
        self.dead_pods.add(uid)
        removed = tuple(self._of_pod.get(uid, ()))
        for candidate in removed:
            endpoint = candidate.endpoint
            self._remove((endpoint.namespace, endpoint.function), endpoint.instance)
        return list(removed)

    def eject(self, candidate: Candidate, ejection: Ejection) -> None:
        """Leave an endpoint alone for a while, or, for good, drop it."""
        candidate.cause = ejection.cause
        candidate.ejected_until = ejection.until
        candidate.failures = ejection.failures
        if ejection.until == FOREVER:
            endpoint = candidate.endpoint
            self.withdraw((endpoint.namespace, endpoint.function), endpoint.instance)

    def _remove(self, function: Key, instance: str) -> None:
        fleet = self.fleets.get(function)
        candidate = fleet.find(instance) if fleet is not None else None
        if fleet is None or candidate is None:
            return
        fleet.candidates.remove(candidate)
        self.dismiss(fleet)
        self._unlink(candidate)

    def dismiss(self, fleet: Fleet) -> None:
        """Forget a fleet that nothing stands for any more."""
        if not (fleet.candidates or fleet.in_flight or fleet.function in self.functions):
            del self.fleets[fleet.function]

    def _unlink(self, candidate: Candidate) -> None:
        pod = candidate.endpoint.pod
        members = self._of_pod.get(pod)
        if members is not None:
            members.discard(candidate)
            if not members:
                del self._of_pod[pod]


def apply_active(state: State, subject: str, active: Active | None) -> list[Key]:
    """Apply what is in force at `subject` now; None means nothing any more."""
    tokens = subjects.ACTIVE.parse(subject)
    if tokens is None:
        return []
    name = (intern(tokens["namespace"]), intern(tokens["name"]))
    match tokens["kind"], active:
        case "route", ActiveRoute():
            state.put_route(compact(active))
        case "route", None:
            state.remove_route(name)
        case "subscription", ActiveSubscription():
            state.subscriptions[name] = active.spec
        case "subscription", None:
            state.subscriptions.pop(name, None)
        case "function", ActiveFunction():
            state.put_function(_function(name, active))
        case "function", None:
            state.remove_function(name)
    return [name] if tokens["kind"] == "function" else []


def _interned(endpoint: Endpoint) -> Endpoint:
    """Return `endpoint` with its names kept once for all that say the same."""
    return Endpoint(
        namespace=intern(endpoint.namespace),
        function=intern(endpoint.function),
        instance=endpoint.instance,
        ip=intern(endpoint.ip),
        port=endpoint.port,
        pod=intern(endpoint.pod),
        node=intern(endpoint.node),
        revision=endpoint.revision,
        concurrency=endpoint.concurrency,
        token=endpoint.token,
        time=endpoint.time,
    )


def _function(name: Key, active: ActiveFunction) -> Function:
    limits = active.spec.limits
    return Function(
        name,
        active.revision,
        limits.timeout_s,
        limits.body_bytes,
        active.spec.interface,
        _DEFAULTS if active.spec.asynchronous == _DEFAULTS else active.spec.asynchronous,
    )


def apply_endpoint(state: State, subject: str, endpoint: Endpoint | None) -> list[Key]:
    """Apply an endpoint fact; None means that the instance is withdrawn."""
    tokens = subjects.ENDPOINTS.parse(subject)
    if tokens is None:
        return []
    function = (tokens["namespace"], tokens["function"])
    if endpoint is None:
        state.withdraw(function, tokens["instance"])
        return [function]
    told = (endpoint.namespace, endpoint.function, endpoint.instance)
    if told != (*function, tokens["instance"]):
        return []
    return [function] if state.put_endpoint(endpoint) else []


def apply_pod(state: State, subject: str, fact: PodFact | None) -> list[Key]:
    """Apply a pod fact. Only death matters here; that a fact is gone says nothing."""
    tokens = subjects.PODS.parse(subject)
    if tokens is None or fact is None or fact.phase != "dead" or fact.uid != tokens["uid"]:
        return []
    return functions_of(state.kill_pod(fact.uid))


def functions_of(candidates: Iterable[Candidate]) -> list[Key]:
    """Return the functions that `candidates` serve, each once."""
    return list({(c.endpoint.namespace, c.endpoint.function): None for c in candidates})
