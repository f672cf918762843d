"""The steps of one build as they happen: into its record, the event log and the metrics."""

import time
from typing import Any, Literal

from schemas.builds import Build, Step
from schemas.events import NO_NAMESPACE, Level, new_event
from services.builder.metrics import STEP_SECONDS
from services.bus.events import EventLog

StepName = Literal["fetch", "resolve", "pull", "inspect", "compile", "store", "image"]


class Trace:
    """What is told of one build."""

    def __init__(self, events: EventLog, build: Build) -> None:
        self._events = events
        self._build = build
        self.steps: tuple[Step, ...] = ()
        self.started = time.monotonic()

    def done(self, name: StepName, started: float, message: str) -> None:
        """Tell that the step `name`, begun at `started` (monotonic seconds), is done."""
        took_s = time.monotonic() - started
        self.steps += (Step(name, round(took_s * 1e3, 3)),)
        STEP_SECONDS.labels(name).observe(took_s)
        self.tell(name, message, duration_ms=took_s * 1e3)

    def tell(
        self,
        what: str,
        message: str,
        *,
        level: Level = "info",
        duration_ms: float | None = None,
        **fields: Any,
    ) -> None:
        """Put one sentence about the build on the event log."""
        self._events.emit(
            new_event(
                "builder",
                NO_NAMESPACE,
                "build",
                self._build.id,
                what,
                message,
                level=level,
                correlation=self._build.correlation,
                duration_ms=None if duration_ms is None else round(duration_ms, 3),
                **fields,
            )
        )
