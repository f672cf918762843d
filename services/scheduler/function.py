"""What the leader knows of one function beside its spec: processes, load and troubles.

And what follows from that alone: which process may be idle, and when to look
again. Plain data without I/O, like the `world` that it is a part of.
"""

import msgspec

from schemas.active import ActiveFunction
from schemas.endpoints import Endpoint
from services.scheduler import scaling
from services.scheduler.plan import ProcessState

FIRST_RETRY_S = 0.5
LAST_RETRY_S = 60.0
ASK_S = 1.0
REPORT_S = 3.0
"""How long a router's report of its activity counts."""


class Instance(msgspec.Struct, kw_only=True):
    """One process of a function: where it answers, and how far it is."""

    endpoint: Endpoint
    state: ProcessState = "serving"
    published: bool = False
    reason: str = ""
    loaded: float = 0.0
    """Monotonic: when it was loaded, or adopted."""
    since: float = 0.0
    """Monotonic: when it was loaded, or last known to have been used."""
    ask_again: float = 0.0
    """Monotonic: not to be asked whether it is idle before."""
    withdrawn: float = 0.0
    """Monotonic: when the endpoint of a native that is to end was seen to be withdrawn."""


class Trouble(msgspec.Struct):
    """Why a revision could not be loaded, and until when (monotonic) it is left alone."""

    message: str
    until: float
    times: int = 1


class Function(msgspec.Struct):
    """What is known of one function beside its spec."""

    instances: dict[str, Instance] = {}
    loading: dict[str, int] = {}
    """Instance -> revision of each load call under way."""
    troubles: dict[int, Trouble] = {}
    """Revision -> its trouble. Each has its own, or two that fail would reset each other."""
    reports: dict[str, tuple[int, float]] = {}
    """Router -> its load, and when it said so (monotonic)."""
    demanded: tuple[int, float] = (0, 0.0)
    """What a router has parked by its last demand, and when it said so."""
    peak: scaling.Peak | None = None
    asked: str = ""
    """The build that the builder has answered a request for."""
    builder_silent: bool = False
    """The builder did not answer the last request."""
    used: float = 0.0
    """Monotonic: when a router last said anything of it."""
    waits: str = ""
    """What its natives wait for, as far as that is known."""

    def fail(self, revision: int, message: str, now: float) -> float:
        """Have a revision left alone for a while that doubles; return how long."""
        before = self.troubles.get(revision)
        times = 1 if before is None else before.times + 1
        delay_s = min(FIRST_RETRY_S * 2.0 ** min(times - 1, 16), LAST_RETRY_S)
        self.troubles[revision] = Trouble(message, now + delay_s, times)
        return delay_s

    def load(self, now: float) -> int:
        """Return the invocations in flight and parked, as last reported."""
        said = sum(load for load, at in self.reports.values() if now - at < REPORT_S)
        parked, at = self.demanded
        return max(said, parked if now - at < REPORT_S else 0)

    def serving(self, revision: int) -> list[scaling.Idleness]:
        """Return since when each process that serves `revision` may have been idle."""
        return [
            scaling.Idleness(instance, known.since)
            for instance, known in self.instances.items()
            if known.state == "serving" and known.endpoint.revision == revision
        ]

    def ask(self, active: ActiveFunction, now: float) -> scaling.Ask | None:
        """Return which process to ask whether it is idle, if any.

        The load is looked at too: what it was in the last while decides how many may go.
        """
        if self.peak is None:
            self.peak = scaling.Peak(active.spec.scaling.idle_timeout_s)
        self.peak.see(self.load(now), now)
        serving = self.serving(active.revision)
        if any(self.instances[one.instance].ask_again > now for one in serving):
            return None
        ask, _ = scaling.surplus(active.spec.scaling, serving, self.peak.value(now), now)
        return ask

    def look_again_s(self, active: ActiveFunction | None, now: float) -> float | None:
        """Return in how many seconds to look at it without any news.

        Args:
            active: what is in force of it.
            now: as in the view that was planned from: whatever was due by then has been
                done, and whatever is due later is waited for.
        """
        waits = [one.until - now for one in self.troubles.values() if one.until > now]
        if active is not None:
            serving = self.serving(active.revision)
            ask, again = scaling.surplus(active.spec.scaling, serving, self.load(now), now)
            if again is not None:
                waits.append(again)
            elif ask is not None:
                # A router says that it is needed, or a new revision is on its way.
                waits.append(REPORT_S if self.load(now) else ASK_S)
            waits += [
                instance.ask_again - now
                for instance in self.instances.values()
                if instance.ask_again > now
            ]
        return min(waits, default=None)
