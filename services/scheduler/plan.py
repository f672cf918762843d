"""Decide what to do next about one function, from everything that is known of it.

Pure and level-triggered: `plan` looks only at what is, never at what happened,
so it may be called at any time and after any failure. Carrying its actions out
and planning again comes to rest, with the wanted revision in force or with a
status that says why not.

The order of an update is its point: load the new revision, publish its
endpoints, put it in force, and only then withdraw and drain the old one.
Whatever fails before that leaves the old revision in force.
"""

from collections.abc import Iterator
from typing import Literal

import msgspec

from schemas.active import ActiveFunction
from schemas.builds import Build, Source
from schemas.status import Phase, Status
from services.scheduler import scaling
from services.scheduler.judge import Rejected, Resolved, Waiting

ProcessState = Literal["loading", "serving", "leaving", "lost"]
"""`leaving`: it was told to end and drains. `lost`: it is gone, or its keeper is."""


class Process(msgspec.Struct, frozen=True):
    """One process of a function. `published` while its endpoint stands on the bus."""

    instance: str
    revision: int
    state: ProcessState
    published: bool
    reason: str = ""
    """Why it was lost."""
    moving: bool = False
    """Its keeper is being replaced: it goes when another one serves in its place."""


class Failure(msgspec.Struct, frozen=True):
    """The last attempt to load the revision failed. Until `may_retry` it is left alone."""

    revision: int
    message: str
    may_retry: bool


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that matters to one function."""

    namespace: str
    name: str
    observed: int = 0
    """The revision of its spec."""
    wanted: Resolved | Waiting | Rejected | None = None
    """What the spec comes to. None: there is no spec (any more)."""
    active: ActiveFunction | None = None
    build: Build | None = None
    """The record of the build of what is wanted."""
    build_asked: bool = False
    """The builder has answered a request for that build."""
    builder_silent: bool = False
    """The builder did not answer the last request."""
    engine: str = ""
    """Hash of the engine that keepers run; empty when none runs yet."""
    processes: tuple[Process, ...] = ()
    load: int = 0
    """Invocations in flight and parked."""
    waits: str = ""
    """Why no keeper can take it yet, if it is known."""
    failures: tuple[Failure, ...] = ()
    """At most one for each revision."""
    ask: scaling.Ask | None = None
    status: Status | None = None


class RequestBuild(msgspec.Struct, frozen=True):
    """Ask the builder."""

    source: Source
    retry: bool


class Load(msgspec.Struct, frozen=True):
    """Load `count` more processes of a function."""

    function: ActiveFunction
    count: int
    reason: str


class Publish(msgspec.Struct, frozen=True):
    """Put the endpoint of a process on the bus."""

    instance: str


class Activate(msgspec.Struct, frozen=True):
    """Put a revision in force."""

    function: ActiveFunction


class Deactivate(msgspec.Struct, frozen=True):
    """Take the function out of force."""


class Withdraw(msgspec.Struct, frozen=True):
    """Take the endpoint of a process off the bus."""

    instance: str
    reason: str


class Drain(msgspec.Struct, frozen=True):
    """Tell a withdrawn process to end when what is in flight has ended."""

    instance: str
    reason: str


class AskIdle(msgspec.Struct, frozen=True):
    """Ask a process to end if it is idle."""

    ask: scaling.Ask


class Forget(msgspec.Struct, frozen=True):
    """Forget a lost process."""

    instance: str
    reason: str


class SetStatus(msgspec.Struct, frozen=True):
    """Say how far the function is."""

    phase: Phase
    message: str
    active_revision: int | None
    field: str | None = None


class ClearStatus(msgspec.Struct, frozen=True):
    """Say nothing of the function any more."""


Action = (
    RequestBuild
    | Load
    | Publish
    | Activate
    | Deactivate
    | Withdraw
    | Drain
    | AskIdle
    | Forget
    | SetStatus
    | ClearStatus
)


class _Progress(msgspec.Struct, frozen=True):
    """How far the wanted revision is on its way to being loadable."""

    phase: Phase
    message: str
    field: str | None = None
    target: ActiveFunction | None = None
    request: RequestBuild | None = None


def plan(view: View) -> tuple[Action, ...]:
    """Return what to do now, in order; nothing when all is as it should be."""
    return tuple(_gone(view) if view.wanted is None else _present(view))


def _gone(view: View) -> Iterator[Action]:
    if view.active is not None:
        yield Deactivate()
    yield from _end(view, kept=set(), reason="the function was deleted")
    if view.status is not None:
        yield ClearStatus()


def _present(view: View) -> Iterator[Action]:
    progress = _progress(view)
    active, target = view.active, progress.target
    phase, message = progress.phase, progress.message
    if progress.request is not None:
        # Said first: the builder may not answer for a while.
        yield from _say(view, phase, message, active, progress.field)
        yield progress.request
    if target is not None and active is not None and target.revision == active.revision:
        if target != active:
            yield Activate(target)
        active = target
    kept = {one.revision for one in (active, target) if one is not None}
    before = active
    yield from _publish(view, kept, before)
    if target is not None and target != active:
        loads, ready, phase, message = _introduce(view, target)
        yield from loads
        if ready:
            yield Activate(target)
            active = target
    if active is not None:
        yield from _scale(view, active)
    if progress.request is None:
        yield from _say(view, phase, message, active, progress.field)
    # What was replaced just now ends in the next round, when this one is done.
    yield from _end(view, kept, "replaced by a newer revision")
    yield from _end_stranded(view, kept, before, active)


def _progress(view: View) -> _Progress:
    match view.wanted:
        case Rejected(message=message, field=field):
            return _Progress("rejected", message, field)
        case Waiting(message=message):
            return _Progress("waiting", message)
    wanted, build = view.wanted, view.build
    assert wanted is not None  # noqa: S101 - `plan` has looked
    if wanted.source is None:
        image = ActiveFunction(
            namespace=view.namespace,
            name=view.name,
            revision=wanted.revision,
            spec=wanted.spec,
            build="",
            artifact=None,
            file_name="",
        )
        return _Progress("active", f"revision {wanted.revision} is in force", target=image)
    if build is not None and build.state == "ready" and build.artifact is not None:
        if view.engine not in ("", build.artifact.engine):
            request = None if view.build_asked else RequestBuild(wanted.source, retry=True)
            message = "the module is built again, for the engine that keepers run now"
            return _Progress("building", message, request=request)
        target = ActiveFunction(
            namespace=view.namespace,
            name=view.name,
            revision=wanted.revision,
            spec=wanted.spec,
            build=build.id,
            artifact=build.artifact,
            file_name=build.file_name or "main.wasm",
        )
        return _Progress("active", f"revision {wanted.revision} is in force", target=target)
    if build is not None and build.state == "failed":
        told = view.status is not None and (
            view.status.phase == "failed" and view.status.observed_revision == view.observed
        )
        if view.build_asked or told:
            return _Progress("failed", build.error or "the build failed without a reason")
        # A new revision asks again: what was missing may be there by now.
        return _building(view, RequestBuild(wanted.source, retry=True))
    # Nobody wanted one that was cancelled, until now.
    known = view.build_asked and build is not None and build.state != "cancelled"
    return _building(view, None if known else RequestBuild(wanted.source, retry=False))


def _building(view: View, request: RequestBuild | None) -> _Progress:
    message = "the module is being built"
    if request is not None:
        if view.builder_silent:
            message = "waits for the builder, which does not answer"
    elif view.build is not None and view.build.error is not None:
        message = f"the build waits to be tried again: {view.build.error}"
    return _Progress("building", message, request=request)


def _introduce(view: View, target: ActiveFunction) -> tuple[tuple[Action, ...], bool, Phase, str]:
    """Return what brings `target` up, whether it can be in force now, and what to say."""
    # Under load it takes over with as many processes as the load needs.
    needed = max(1, scaling.processes_for(target.spec.scaling, view.load))
    serving, coming = _count(view, target.revision)
    failure = _failure(view, target.revision)
    loads: tuple[Action, ...] = ()
    if serving + coming < needed and (failure is None or failure.may_retry):
        loads = (Load(target, needed - serving - coming, "a new revision"),)
    if serving >= needed or (serving > 0 and failure is not None):
        return loads, True, "active", f"revision {target.revision} is in force"
    if failure is not None:
        return loads, False, "failed", failure.message
    message = f"the first process of revision {target.revision} is starting"
    if view.waits:
        message += "; " if target.artifact is None else "; it waits for a keeper: "
        message += view.waits
    return loads, False, "starting", message


def _scale(view: View, active: ActiveFunction) -> Iterator[Action]:
    least, most = scaling.bounds(active.spec.scaling)
    loaded = scaling.processes_for(active.spec.scaling, view.load)
    moving = [
        one
        for one in view.processes
        if one.moving and one.state == "serving" and one.revision == active.revision
    ]
    # Beside the old ones for a while, and so above the most.
    needed = max(loaded, min(len(moving), most))
    serving, coming = _count(view, active.revision)
    failure = _failure(view, active.revision)
    if serving + coming < needed:
        if failure is None or failure.may_retry:
            why = "its minimum" if needed == least else f"{view.load} in flight or parked"
            if moving:
                why = "its keeper is replaced"
            yield Load(active, needed - serving - coming, why)
    elif moving and serving >= needed:
        for one in moving:
            if one.published:  # Otherwise it was just now.
                yield Withdraw(one.instance, "its keeper is replaced")
                yield Drain(one.instance, "its keeper is replaced")
    elif view.ask is not None and serving > needed and coming == 0:
        yield AskIdle(view.ask)


def _publish(view: View, kept: set[int], active: ActiveFunction | None) -> Iterator[Action]:
    for one in view.processes:
        if (
            one.state == "serving"
            and one.revision in kept
            and not one.published
            and not _is_stranded(one, active)
        ):
            yield Publish(one.instance)


def _is_stranded(one: Process, *in_force: ActiveFunction | None) -> bool:
    """Whether it is where nothing stays, of a revision that has yet to be in force elsewhere."""
    return one.moving and all(it is None or one.revision != it.revision for it in in_force)


def _end(view: View, kept: set[int], reason: str) -> Iterator[Action]:
    """End what no revision of `kept` needs, and forget what is lost."""
    for one in view.processes:
        if one.state == "lost":
            if one.published:
                yield Withdraw(one.instance, one.reason)
            yield Forget(one.instance, one.reason)
        elif one.revision not in kept:
            if one.published:
                yield Withdraw(one.instance, reason)
            if one.state == "serving":
                yield Drain(one.instance, reason)
        elif one.state == "leaving" and one.published:
            yield Withdraw(one.instance, one.reason)


def _end_stranded(
    view: View, kept: set[int], before: ActiveFunction | None, active: ActiveFunction | None
) -> Iterator[Action]:
    for one in view.processes:
        if one.state == "serving" and one.revision in kept and _is_stranded(one, before, active):
            if one.published:
                yield Withdraw(one.instance, "its keeper is replaced")
            yield Drain(one.instance, "its keeper is replaced")


def _say(
    view: View, phase: Phase, message: str, active: ActiveFunction | None, field: str | None
) -> Iterator[Action]:
    revision = active.revision if active else None
    said = view.status
    if said is None or (
        said.phase,
        said.message,
        said.active_revision,
        said.field,
        said.observed_revision,
    ) != (phase, message, revision, field, view.observed):
        yield SetStatus(phase, message, revision, field)


def _failure(view: View, revision: int) -> Failure | None:
    return next((one for one in view.failures if one.revision == revision), None)


def _count(view: View, revision: int) -> tuple[int, int]:
    """Return how many processes of `revision` serve to stay, and how many are loading."""
    states = [one.state for one in view.processes if one.revision == revision and not one.moving]
    return states.count("serving"), states.count("loading")
