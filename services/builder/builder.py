"""Takes requests for builds, and works until each is ready, failed or cancelled.

A request is answered at once with the record as it stands; the work is done
from a queue, one build at a time for each id and a bounded number in all.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from schemas.builds import Build, BuildReply, BuildRequest, ImageSource, build_id
from services.builder import reconcile
from services.builder.artifacts import Artifacts
from services.builder.errors import Rejected, Unavailable
from services.builder.metrics import BUILDS
from services.builder.pipeline import Pipeline
from services.builder.records import Records
from services.builder.trace import Trace
from services.bus.events import EventLog
from services.workqueue import WorkQueue

log = logging.getLogger(__name__)


class Builder:
    """The builder's work. `run` does it; `request` adds to it."""

    def __init__(
        self,
        records: Records,
        artifacts: Artifacts,
        pipeline: Pipeline,
        events: EventLog,
        *,
        parallel: int,
        give_up_s: float,
    ) -> None:
        self._records = records
        self._artifacts = artifacts
        self._pipeline = pipeline
        self._events = events
        self._give_up_s = give_up_s
        self._queue = WorkQueue("build", self._work, parallel=parallel)
        self._since: dict[str, float] = {}
        """When each unfinished build was first tried by this process."""
        self._running: dict[str, asyncio.Task[Build]] = {}
        self._cancelled: set[str] = set()
        """Builds that are to end because nobody wants them."""
        self.on_queued: Callable[[], None] = lambda: None
        """Called when there is one more build that is not at its end."""

    async def run(self) -> None:
        """Take up what is not finished, then work on what is asked for, for ever."""
        await self._records.complete.wait()
        for build in self._records:
            if not reconcile.finished(build):
                self._trace(build).tell("resumed", f"going on with {_what(build)}")
                self._queue.put(build.id)
        await self._queue.run()

    async def learn_engine(self) -> None:
        """Find out the engine before the first build needs it, if that is possible now."""
        try:
            await self._pipeline.learn_engine()
        except Unavailable as reason:
            log.warning("%s", reason)

    async def request(self, request: BuildRequest) -> BuildReply:
        """Return the record of the build that `request` names, queued if it was not there.

        Raises:
            BusError: NATS did not take the record.
        """
        current = self._records.get(build_id(request.source))
        stored = False
        if current is not None and current.state == "ready" and current.artifact is not None:
            artifact = current.artifact
            stored = await self._artifacts.find(artifact.module, artifact.engine) == artifact
        build = reconcile.accept(
            request, current, self._pipeline.engine, stored=stored, now=datetime.now(UTC)
        )
        if build is None:
            return BuildReply(build=current)
        await self._records.write(build)
        self._trace(build).tell("queued", f"{_what(build)} will be built")
        self._queue.put(build.id)
        self.on_queued()
        return BuildReply(build=build)

    def unfinished(self) -> set[str]:
        """Return the ids of the builds that are not at their end."""
        return {build.id for build in self._records if not reconcile.finished(build)}

    def cancel(self, build_id: str) -> None:
        """Have a build ended that nobody wants any more: its compiler, its Job and its image."""
        self._cancelled.add(build_id)
        if (running := self._running.get(build_id)) is not None:
            running.cancel()
        self._queue.put(build_id)

    async def _work(self, build_id: str) -> float | None:
        """Bring a build to its end, or return after how many seconds to try again."""
        build = self._records.get(build_id)
        if build is None or reconcile.finished(build):
            self._cancelled.discard(build_id)
            return None
        began = self._since.setdefault(build_id, time.monotonic())
        trace = self._trace(build)
        try:
            if build_id not in self._cancelled:
                ended = await self._run(build, trace)
            if build_id in self._cancelled:
                # What was cut off in the middle may have told more.
                build = self._records.get(build_id) or build
                await self._pipeline.discard(build_id)
                ended = reconcile.cancelled(build, datetime.now(UTC))
        except Rejected as verdict:
            ended = reconcile.failed(build, str(verdict), datetime.now(UTC))
        except Unavailable as reason:
            wait_s = reconcile.wait_s(time.monotonic() - began, self._give_up_s)
            if wait_s is not None:
                await self._wait(build.id, str(reason))
                message = f"{_what(build)} waits {wait_s:.1f} s: {reason}"
                trace.tell("waiting", message, level="warning")
                return wait_s
            ended = reconcile.failed(build, f"{reason}; gave up", datetime.now(UTC))
        await self._records.write(ended)
        self._since.pop(build_id, None)
        self._cancelled.discard(build_id)
        self._tell_end(ended, trace)
        return None

    async def _run(self, build: Build, trace: Trace) -> Build:
        """Return the record of `build` at its end, or as it was if `cancel` cut it off."""
        running = asyncio.create_task(self._pipeline.run(build, trace, self._records.write))
        self._running[build.id] = running
        try:
            await asyncio.wait({running})
        finally:
            del self._running[build.id]
            if not running.done():
                running.cancel()
                await asyncio.wait({running})
        return build if running.cancelled() else running.result()

    async def _wait(self, build_id: str, reason: str) -> None:
        """Say in the record what its build waits for, unless it says so already."""
        # Not the one that the try began with: it may have come some steps on.
        build = self._records.get(build_id)
        if build is not None and build.error != reason:
            await self._records.write(reconcile.waiting(build, reason, datetime.now(UTC)))

    def _tell_end(self, ended: Build, trace: Trace) -> None:
        BUILDS.labels(ended.state).inc()
        took_ms = (time.monotonic() - trace.started) * 1e3
        if ended.state == "ready":
            trace.tell("ready", f"{_what(ended)} is ready", duration_ms=took_ms)
        elif ended.state == "cancelled":
            message = f"the build of {_what(ended)} was cancelled: {ended.error}"
            trace.tell("cancelled", message, duration_ms=took_ms)
        else:
            message = f"{_what(ended)} cannot be built: {ended.error}"
            trace.tell("failed", message, level="error", duration_ms=took_ms)

    def _trace(self, build: Build) -> Trace:
        return Trace(self._events, build)


def _what(build: Build) -> str:
    """Return what a person calls the thing that is built."""
    if isinstance(build.source, ImageSource):
        return f"the image {build.source.reference}"
    return build.source.file_name
