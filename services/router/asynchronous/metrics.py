"""What is counted of asynchronous invocations, for `/metrics`."""

from typing import Final

from prometheus_client import Counter, Histogram

from schemas.invocations import Attempt, Invocation, Result

_ACCEPTED: Final = Counter(
    "wasmfn_router_async_accepted",
    "Asynchronous invocations that were stored.",
    ["namespace", "function", "origin"],
)
_REFUSED: Final = Counter(
    "wasmfn_router_async_refused", "Asynchronous invocations that were not stored.", ["status"]
)
_ATTEMPTS: Final = Counter(
    "wasmfn_router_async_attempts",
    "Attempts to run an asynchronous invocation.",
    ["namespace", "function", "outcome"],
)
_ENDED: Final = Counter(
    "wasmfn_router_async_ended",
    "Asynchronous invocations that are done, dead letters, or cancelled.",
    ["namespace", "function", "state"],
)
_SECONDS: Final = Histogram(
    "wasmfn_router_async_attempt_seconds",
    "How long an attempt took, a wait for an instance included.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)


class AsyncMetrics:
    """Counts. Attempts are no part of the way of a request that somebody waits for."""

    def accepted(self, invocation: Invocation) -> None:
        """Count one that was stored."""
        _ACCEPTED.labels(invocation.namespace, invocation.function, invocation.origin).inc()

    def refused(self, status: int) -> None:
        """Count one that was not."""
        _REFUSED.labels(str(status)).inc()

    def attempted(self, invocation: Invocation, attempt: Attempt, *, interrupted: bool) -> None:
        """Count an attempt. That somebody had it ended is no failure of the function."""
        ended = interrupted and attempt.outcome == "failed"
        outcome = "cancelled" if ended else attempt.outcome
        _ATTEMPTS.labels(invocation.namespace, invocation.function, outcome).inc()
        _SECONDS.observe(attempt.duration_ms / 1000)

    def ended(self, invocation: Invocation | Result, state: str) -> None:
        """Count one that came to its end."""
        _ENDED.labels(invocation.namespace, invocation.function, state).inc()
