"""The route table: which route answers a request, whatever the number of routes.

Order of precedence: routes of the request's host before routes of any host;
then a literal path before one with parameters (a literal segment before a
parameter, from the left) before the longest prefix. A route that does not take
the method is passed over in favour of the next; only when none takes it is the
answer 405, with the methods of all that match the path. HEAD is answered by a
GET route where no route names it.

Literal paths and prefixes are dictionary look-ups (a prefix costs one for each
segment of the request); only patterns with parameters walk a trie. Changes are
made in place, one at a time: a new table for each of a thousand changes a
second would copy ten thousand routes a thousand times.
"""

from sys import intern
from typing import Final, NamedTuple

import msgspec

from schemas.active import ActiveRoute
from services.router.access.gate import Gate, gate_of

Key = tuple[str, str]
"""Namespace and name of a function."""
NOBODY: Final[Key] = ("", "")
"""Stands for the function of requests that no route took."""

ANY_HOST: Final = ""
_DEFAULT_METHODS: Final = ("GET", "POST")
"""What most routes take, once for all of them."""
_KEPT: Final = 1024
_KEPT_LENGTH: Final = 256
"""Bounds of what is kept of requests: their number, and host and path together."""


class Route(msgspec.Struct, frozen=True, gc=False):
    """What the router needs of a route in force."""

    namespace: str
    name: str
    revision: int
    function: Key
    pattern: str
    is_prefix: bool
    methods: tuple[str, ...]
    host: str
    parameters: tuple[str, ...]
    """Names of the path parameters, from the left."""
    gate: Gate | None = None
    """What it asks of a request, if it asks anything."""

    def __lt__(self, other: "Route") -> bool:
        """Order routes of one slot: while two overlap in a rollout, the elder serves."""
        return (self.revision, self.namespace, self.name) < (
            other.revision,
            other.namespace,
            other.name,
        )


class Match(NamedTuple):
    """A route and the values of its parameters, decoded."""

    route: Route
    values: tuple[str, ...]


class WrongMethod(NamedTuple):
    """Routes match the path, but none takes the method."""

    allowed: tuple[str, ...]


Slot = tuple[Route, ...]
"""Routes of one pattern, in order; they differ by method."""


class _Node:
    """A trie node of the patterns with parameters."""

    __slots__ = ("literals", "parameter", "slot")

    def __init__(self) -> None:
        self.literals: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.slot: Slot = ()


class _Host:
    """The routes of one host."""

    __slots__ = ("count", "depths", "exact", "patterns", "prefixes")

    def __init__(self) -> None:
        self.count = 0
        self.exact: dict[str, Slot] = {}
        self.patterns = _Node()
        self.prefixes: dict[str, Slot] = {}
        self.depths: dict[int, int] = {}
        """How many prefixes have so many segments: only these lengths are looked up."""

    def match(self, method: str, path: str, allowed: list[str]) -> Match | None:
        """Return what answers `method`, or note in `allowed` what the path takes instead."""
        slot = self.exact.get(path)
        if slot is not None:
            route = _by_method(slot, method, allowed)
            if route is not None:
                return Match(route, ())
        patterns = self.patterns
        if patterns.literals or patterns.parameter is not None:
            found = _walk(patterns, path[1:].split("/"), 0, (), method, allowed)
            if found is not None:
                return found
        return _longest_prefix(self, path, method, allowed) if self.depths else None


def compact(active: ActiveRoute) -> Route:
    """Return the router's form of a route in force."""
    spec = active.spec
    pattern = spec.path if spec.path is not None else spec.prefix
    if pattern is None:
        raise ValueError(f"route {active.name} has neither a path nor a prefix")
    return Route(
        # Ten thousand times the same words: kept once.
        namespace=intern(active.namespace),
        name=intern(active.name),
        revision=active.revision,
        function=(intern(active.namespace), intern(spec.function)),
        pattern=pattern if spec.path is not None else pattern.rstrip("/"),
        is_prefix=spec.path is None,
        methods=_DEFAULT_METHODS if spec.methods == _DEFAULT_METHODS else spec.methods,
        host=intern(spec.host or ANY_HOST),
        parameters=tuple(s[1:-1] for s in pattern.split("/") if s.startswith("{")),
        gate=gate_of(spec),
    )


class Table:
    """All routes. Each is known by its namespace and name."""

    def __init__(self) -> None:
        self._routes: dict[Key, Route] = {}
        self._hosts: dict[str, _Host] = {}
        self._found: dict[tuple[str, str, str], Match] = {}
        """What was found since the last change: a look-up here takes a fifth of the time."""

    def __len__(self) -> int:
        return len(self._routes)

    def put(self, route: Route) -> None:
        """Add a route, or replace the one of the same name."""
        self.remove((route.namespace, route.name))
        self._found.clear()
        self._routes[route.namespace, route.name] = route
        host = self._hosts.setdefault(route.host, _Host())
        host.count += 1
        if route.parameters:
            node = host.patterns
            for segment in route.pattern[1:].split("/"):
                if segment.startswith("{"):
                    node.parameter = node.parameter or _Node()
                    node = node.parameter
                else:
                    node = node.literals.setdefault(segment, _Node())
            node.slot = tuple(sorted((*node.slot, route)))
            return
        slots = host.prefixes if route.is_prefix else host.exact
        slots[route.pattern] = tuple(sorted((*slots.get(route.pattern, ()), route)))
        if route.is_prefix:
            depth = route.pattern.count("/")
            host.depths[depth] = host.depths.get(depth, 0) + 1

    def remove(self, name: Key) -> None:
        """Remove a route. One that is not there is no error."""
        route = self._routes.pop(name, None)
        if route is None:
            return
        self._found.clear()
        host = self._hosts[route.host]
        host.count -= 1
        if not host.count:
            del self._hosts[route.host]
        elif route.parameters:
            _prune(host.patterns, route.pattern[1:].split("/"), route)
        else:
            slots = host.prefixes if route.is_prefix else host.exact
            slots[route.pattern] = tuple(r for r in slots[route.pattern] if r is not route)
            if not slots[route.pattern]:
                del slots[route.pattern]
            if route.is_prefix:
                depth = route.pattern.count("/")
                host.depths[depth] -= 1
                if not host.depths[depth]:
                    del host.depths[depth]

    def match(self, host: str, method: str, path: str) -> Match | WrongMethod | None:
        """Return what answers `method` on the decoded `path` of `host` (lower case, no port)."""
        wanted = (host, method, path)
        found = self._found.get(wanted)
        if found is not None:
            return found
        allowed: list[str] = []
        for name in (host, ANY_HOST) if host != ANY_HOST else (ANY_HOST,):
            routes = self._hosts.get(name)
            found = routes.match(method, path, allowed) if routes is not None else None
            if found is not None:
                self._keep(wanted, found)
                return found
        if not allowed:
            return None
        if "GET" in allowed:
            allowed.append("HEAD")
        return WrongMethod(tuple(sorted(set(allowed))))

    def _keep(self, wanted: tuple[str, str, str], found: Match) -> None:
        if len(wanted[0]) + len(wanted[2]) > _KEPT_LENGTH:
            return
        if len(self._found) >= _KEPT:
            self._found.clear()
        self._found[wanted] = found


def _by_method(slot: Slot, method: str, allowed: list[str]) -> Route | None:
    """Return the slot's route for `method`, or note in `allowed` what it takes instead."""
    for route in slot:
        if method in route.methods:
            return route
    if method == "HEAD":
        for route in slot:
            if "GET" in route.methods:
                return route
    for route in slot:
        allowed.extend(route.methods)
    return None


def _walk(
    node: _Node,
    segments: list[str],
    at: int,
    values: tuple[str, ...],
    method: str,
    allowed: list[str],
) -> Match | None:
    """Match `segments[at:]` below `node`, literals first. Visits no more nodes than there are."""
    if at == len(segments):
        route = _by_method(node.slot, method, allowed) if node.slot else None
        return None if route is None else Match(route, values)
    segment = segments[at]
    child = node.literals.get(segment)
    if child is not None:
        found = _walk(child, segments, at + 1, values, method, allowed)
        if found is not None:
            return found
    if node.parameter is not None and segment:
        return _walk(node.parameter, segments, at + 1, (*values, segment), method, allowed)
    return None


def _longest_prefix(host: _Host, path: str, method: str, allowed: list[str]) -> Match | None:
    borders = [i for i, c in enumerate(path) if c == "/"] + [len(path)]
    for depth in sorted(host.depths, reverse=True):
        if depth >= len(borders):
            continue
        slot = host.prefixes.get(path[: borders[depth]])
        route = _by_method(slot, method, allowed) if slot is not None else None
        if route is not None:
            return Match(route, ())
    return None


def _prune(node: _Node, segments: list[str], route: Route) -> bool:
    """Take `route` out below `node` and return whether `node` is empty now."""
    if not segments:
        node.slot = tuple(r for r in node.slot if r is not route)
    else:
        segment, rest = segments[0], segments[1:]
        if segment.startswith("{"):
            if node.parameter is not None and _prune(node.parameter, rest, route):
                node.parameter = None
        elif _prune(node.literals[segment], rest, route):
            del node.literals[segment]
    return not node.slot and not node.literals and node.parameter is None
