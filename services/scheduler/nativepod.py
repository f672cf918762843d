"""What is known of one pod with an image of its own, and what follows from that alone. Pure."""

from datetime import UTC, datetime
from typing import Final

import msgspec

from schemas.active import ActiveFunction
from schemas.endpoints import Endpoint
from schemas.pods import PodFact
from services.scheduler.function import REPORT_S
from services.scheduler.pods.native import Native, Revision

SLOW_S: Final = 15.0
"""What takes longer is told of even if the cluster names no reason."""
_LAST_WORDS_S: Final = 15.0
"""How much later than its node the cluster may say how a container ended, and what it said."""
_LAST_REPORT_S: Final = REPORT_S + 1.0
"""After this, routers have told what they still have of an endpoint that was withdrawn."""
_GRACE_S: Final = 5.0


class NativePod(msgspec.Struct):
    """What is known of one native, from the cluster and from its node."""

    of: Revision
    since: float
    """When it was first heard of (monotonic)."""
    native: Native | None = None
    fact: PodFact | None = None
    heard: float = 0.0
    """When its node last said anything of it (monotonic)."""
    instance: str = ""
    """The one that it serves, or has served."""
    useless: bool = False
    """It never served and never will, and whoever waited for it knows why."""

    @property
    def over(self) -> bool:
        """Whether its container has ended."""
        return self.fact is not None and self.fact.phase == "dead"

    @property
    def ending(self) -> bool:
        """Whether it was told to end."""
        return self.native is not None and self.native.ending

    @property
    def serves(self) -> bool:
        """Whether it takes requests, as far as is known."""
        return self.fact is not None and self.fact.ready and not self.over and not self.ending

    def trouble(self, now: float) -> tuple[str, bool]:
        """Return what is in the way of one that does not serve, and whether that is its end."""
        trouble = self.native.trouble if self.native is not None else ""
        failed = self.native is not None and self.native.failed
        if self.fact is not None and self.over and not failed and now - self.heard >= _LAST_WORDS_S:
            return self.fact.reason, True
        if failed or trouble or now - self.since < SLOW_S:
            return trouble, failed
        name = self.native.name if self.native is not None else self.of[1]
        if self.fact is not None and self.fact.phase == "running":
            return (
                f"the pod {name} runs and does not take connections; is `container.port` right?",
                False,
            )
        return (
            f"the pod {name} is being made; the end of `kubectl describe pod` says how far it is",
            False,
        )


def is_native(endpoint: Endpoint) -> bool:
    """Whether it is the endpoint of a native: no one there could check a token."""
    return not endpoint.token


def is_drained(withdrawn_s: float, load: int, timeout_s: float) -> bool:
    """Whether a native whose endpoint was withdrawn so long ago has nothing in flight any more.

    Routers tell what they have of the whole function, so while others serve it nobody knows; then
    the function's own timeout ends the wait.
    """
    return (load == 0 and withdrawn_s >= _LAST_REPORT_S) or withdrawn_s >= timeout_s + _GRACE_S


def endpoint_of(function: ActiveFunction, instance: str, fact: PodFact) -> Endpoint:
    """Return where an instance of `function` answers whose pod is that of `fact`."""
    return Endpoint(
        namespace=function.namespace,
        function=function.name,
        instance=instance,
        ip=fact.ip,
        port=fact.port,
        pod=fact.uid,
        node=fact.node,
        revision=function.revision,
        concurrency=function.spec.scaling.concurrency,
        token="",
        time=datetime.now(UTC),
    )
