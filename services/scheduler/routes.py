"""Tell which route serves which requests, so that no two serve the same.

Two routes collide when they have the same host, a method in common, and paths
of the same shape: the same segments, with parameters in the same places
whatever their names. An exact path beside a prefix is no collision, since the
router takes the longer match. Routes of different namespaces share the hosts,
so they can collide too.

Each route claims the keys it serves. The claims are an index, so judging one
route costs the same among ten as among ten thousand.
"""

from collections.abc import Iterable

from schemas.specs import RouteSpec
from services.scheduler.judge import Rejected

RouteName = tuple[str, str]
"""Namespace and name."""
Claim = tuple[str, str, str, str]
"""Host or an empty string, `path` or `prefix`, shape, method."""


def claims(spec: RouteSpec) -> tuple[Claim, ...]:
    """Return one claim for each method of a route."""
    host = spec.host or ""
    if spec.path is not None:
        kind, shape = "path", _shape(spec.path)
    else:
        # A prefix matches at segment borders, with or without the last slash.
        kind, shape = "prefix", (spec.prefix or "").rstrip("/")
    return tuple((host, kind, shape, method) for method in spec.methods)


def _shape(path: str) -> str:
    return "/".join("{}" if segment.startswith("{") else segment for segment in path.split("/"))


class Claims:
    """Which route holds which claim: the first that was accepted keeps it."""

    def __init__(self, accepted: Iterable[tuple[RouteName, RouteSpec]] = ()) -> None:
        self._holders: dict[Claim, RouteName] = {}
        self._held: dict[RouteName, tuple[Claim, ...]] = {}
        for route, spec in accepted:
            self.take(route, spec)

    def collision(self, route: RouteName, spec: RouteSpec) -> Rejected | None:
        """Return why `route` cannot have what `spec` asks for, if another has some of it."""
        for claim in claims(spec):
            holder = self._holders.get(claim, route)
            if holder != route:
                namespace, name = holder
                _, kind, _, method = claim
                at = f" at host {spec.host!r}" if spec.host else ""
                return Rejected(
                    f"{method} {spec.path or spec.prefix}{at} is already served by the route"
                    f" {name!r} of namespace {namespace!r}; change or delete one of them",
                    field=f"$.{kind}",
                )
        return None

    def take(self, route: RouteName, spec: RouteSpec) -> None:
        """Give `route` the claims of `spec` in place of those it had."""
        self.release(route)
        self._held[route] = claims(spec)
        for claim in self._held[route]:
            self._holders[claim] = route

    def release(self, route: RouteName) -> None:
        """Free what `route` held."""
        for claim in self._held.pop(route, ()):
            if self._holders.get(claim) == route:
                del self._holders[claim]
