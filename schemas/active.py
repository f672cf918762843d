"""What is in force: judged, resolved specs, written by the leading scheduler alone.

Routers need nothing else to serve. A bad spec never gets here, so the last
good one stands.
"""

import msgspec

from schemas.builds import Artifact
from schemas.specs import (
    EnvironmentSpec,
    FunctionSpec,
    RouteSpec,
    SubscriptionSpec,
    TimerSpec,
)


class ActiveEnvironment(msgspec.Struct, frozen=True, tag_field="kind", tag="environment"):
    """An environment in force."""

    namespace: str
    name: str
    revision: int
    spec: EnvironmentSpec


class ActiveFunction(msgspec.Struct, frozen=True, tag_field="kind", tag="function"):
    """A function in force, with everything that is needed to load it.

    `spec` has its environment's variables merged in. `build` names the build
    that `artifact` came from; there is none of what runs as an image of its own
    (`executor: deployment`), and `spec.image` is that image.
    """

    namespace: str
    name: str
    revision: int
    spec: FunctionSpec
    build: str
    artifact: Artifact | None
    file_name: str


class ActiveRoute(msgspec.Struct, frozen=True, tag_field="kind", tag="route"):
    """A route in force. Its function may not exist yet: then it answers 503."""

    namespace: str
    name: str
    revision: int
    spec: RouteSpec


class ActiveTimer(msgspec.Struct, frozen=True, tag_field="kind", tag="timer"):
    """A timer in force. Its function may not exist yet: then its calls fail."""

    namespace: str
    name: str
    revision: int
    spec: TimerSpec


class ActiveSubscription(msgspec.Struct, frozen=True, tag_field="kind", tag="subscription"):
    """A subscription in force. Its function may not exist yet: then its calls fail."""

    namespace: str
    name: str
    revision: int
    spec: SubscriptionSpec


Active = ActiveEnvironment | ActiveFunction | ActiveRoute | ActiveTimer | ActiveSubscription
