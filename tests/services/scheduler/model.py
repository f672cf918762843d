"""A model of one function's world, which carries the actions of `plan` out and refuses wrong ones.

And views to begin with, of everything that can be found there.
"""

from datetime import UTC, datetime

import msgspec
from hypothesis import strategies as st

from schemas.active import ActiveFunction
from schemas.builds import Artifact, Build, UploadSource, build_id
from schemas.specs import FunctionSpec, Module, Scaling
from schemas.status import Status
from services.scheduler.judge import Rejected, Resolved, Waiting
from services.scheduler.plan import (
    Action,
    Activate,
    AskIdle,
    ClearStatus,
    Deactivate,
    Drain,
    Failure,
    Forget,
    Load,
    Process,
    Publish,
    RequestBuild,
    SetStatus,
    View,
    Withdraw,
    plan,
)
from services.scheduler.scaling import Ask

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SHA = "a" * 64
ARTIFACT = Artifact(SHA, "engine", 1, SHA, "00")
SOURCE = UploadSource(SHA, "f.wasm")
ROUNDS = 80
SCALINGS = st.builds(
    lambda least, more, processes: Scaling(
        min_instances=least, max_instances=max(1, least + more), processes=processes
    ),
    st.integers(0, 3), st.integers(0, 3), st.integers(1, 3),
)  # fmt: skip
BUILD_STATES = st.sampled_from(["queued", "building", "ready", "failed", "cancelled"])


def build(state: str) -> Build:
    return Build(
        build_id(SOURCE), SOURCE, state, NOW, file_name="f.wasm",  # type: ignore[arg-type]
        artifact=ARTIFACT if state == "ready" else None,
        error="it is no module" if state == "failed" else None,
    )  # fmt: skip


def spec(scaling: Scaling) -> FunctionSpec:
    return FunctionSpec(module=Module(SHA, "f.wasm"), scaling=scaling)


def function(revision: int, scaling: Scaling) -> ActiveFunction:
    return ActiveFunction(
        "default", "f", revision, spec(scaling), build_id(SOURCE), ARTIFACT, "f.wasm"
    )


@st.composite
def views(draw: st.DrawFn) -> View:
    scaling = draw(SCALINGS)
    observed = draw(st.integers(1, 4))
    active = draw(st.none() | st.builds(function, st.integers(1, 4), st.just(scaling)))
    processes = tuple(
        Process(
            str(number),
            draw(st.integers(1, 4)),
            draw(st.sampled_from(["loading", "serving", "leaving", "lost"])),
            draw(st.booleans()),
            "reason",
            draw(st.booleans()),
        )
        for number in range(draw(st.integers(0, 6)))
    )
    processes = tuple(
        msgspec.structs.replace(one, published=False) if one.state == "loading" else one
        for one in processes
    )
    serving = [one.instance for one in processes if one.state == "serving"]
    return View(
        namespace="default",
        name="f",
        observed=observed,
        wanted=draw(
            st.none()
            | st.just(Rejected("no", "$.x"))
            | st.just(Waiting("waits"))
            | st.just(Resolved(observed, spec(scaling), SOURCE))
        ),
        active=active,
        build=draw(st.none() | BUILD_STATES.map(build)),
        build_asked=draw(st.booleans()),
        engine=draw(st.sampled_from(["", "engine"])),
        processes=processes,
        load=draw(st.integers(0, 60)),
        failures=tuple(
            draw(
                st.lists(
                    st.builds(Failure, st.integers(1, 4), st.just("it broke"), st.booleans()),
                    unique_by=lambda failure: failure.revision,
                )
            )
        ),
        ask=Ask(draw(st.sampled_from(serving)), 1.0, "idle") if serving else None,
        status=draw(
            st.none()
            | st.builds(
                Status, st.just("function"), st.just("default"), st.just("f"),
                st.sampled_from(["active", "failed", "rejected"]), st.integers(1, 4), st.none(),
                st.just("said"), st.just(NOW),
            )
        ),
    )  # fmt: skip


class Model:
    """A world that does what it is told; loads and builds turn out as the test says."""

    def __init__(self, view: View, loads: bool, builds: bool) -> None:
        self.view = view
        self.loads = loads
        self.builds = builds
        self.made = 100
        self.turn = 0

    def change(self, **fields: object) -> None:
        self.view = msgspec.structs.replace(self.view, **fields)

    def process(self, instance: str) -> Process:
        return next(one for one in self.view.processes if one.instance == instance)

    def put(self, changed: Process) -> None:
        self.change(
            processes=tuple(
                changed if one.instance == changed.instance else one for one in self.view.processes
            )
        )

    def do(self, action: Action) -> None:  # noqa: C901 - one case for each action
        match action:
            case RequestBuild():
                self.change(build=build("ready" if self.builds else "failed"), build_asked=True)
            case Load(function=wanted, count=count):
                assert count > 0
                new = [
                    Process(str(self.made + number), wanted.revision, "loading", False)
                    for number in range(count)
                ]
                self.made += count
                self.change(processes=(*self.view.processes, *new))
            case Publish(instance):
                assert self.process(instance).state == "serving"
                self.put(msgspec.structs.replace(self.process(instance), published=True))
            case Activate(wanted):
                before = self.view.active
                if before is None or before.revision != wanted.revision:
                    assert any(
                        one.published and one.state == "serving"
                        for one in self.view.processes
                        if one.revision == wanted.revision
                    ), "a revision is in force only when it serves"
                self.change(active=wanted)
            case Deactivate():
                self.change(active=None)
            case Withdraw(instance):
                one = self.process(instance)
                active = self.view.active
                if active is not None and self.view.wanted is not None:
                    others = sum(
                        other.published and other.state == "serving" and not other.moving
                        for other in self.view.processes
                        if other.revision == active.revision
                    )
                    assert (
                        one.state in ("leaving", "lost")
                        or one.revision != active.revision
                        or (one.moving and others)
                    ), "what serves is withdrawn only for a newer one or another place"
                self.put(msgspec.structs.replace(one, published=False))
            case Drain(instance):
                assert not self.process(instance).published, "withdrawn first, then drained"
                self.put(msgspec.structs.replace(self.process(instance), state="leaving"))
            case AskIdle(ask):
                one = self.process(ask.instance)
                self.put(msgspec.structs.replace(one, state="leaving"))
                self.change(ask=None)
            case Forget(instance):
                assert not self.process(instance).published
                if self.view.ask is not None and self.view.ask.instance == instance:
                    # Only what is there is asked.
                    self.change(ask=None)
                self.change(
                    processes=tuple(p for p in self.view.processes if p.instance != instance)
                )
            case SetStatus(phase, message, revision, field):
                self.change(
                    status=Status(
                        "function", "default", "f", phase, self.view.observed, revision,
                        message, NOW, field,
                    )
                )  # fmt: skip
            case ClearStatus():
                self.change(status=None)

    def fail(self, revision: int) -> None:
        others = (one for one in self.view.failures if one.revision != revision)
        self.change(failures=(*others, Failure(revision, "it broke", may_retry=False)))

    def settle(self) -> None:
        """Let what is under way come to its end, every second time: it takes a while."""
        self.turn += 1
        if self.turn % 2:
            return
        for one in self.view.processes:
            if one.state == "loading" and self.loads:
                self.put(msgspec.structs.replace(one, state="serving"))
            elif one.state == "loading":
                self.put(msgspec.structs.replace(one, state="lost"))
                self.fail(one.revision)
            elif one.state == "leaving" and not one.published:
                self.put(msgspec.structs.replace(one, state="lost"))
        if self.view.build is not None and self.view.build.state in ("queued", "building"):
            self.change(build=build("ready" if self.builds else "failed"))
        if self.loads:
            serving = {one.revision for one in self.view.processes if one.state == "serving"}
            self.change(
                failures=tuple(
                    msgspec.structs.replace(failure, may_retry=True)
                    for failure in self.view.failures
                    if failure.revision not in serving
                )
            )

    def run(self) -> None:
        """Plan and do until nothing is left to do and nothing is under way."""
        for _ in range(ROUNDS):
            actions = plan(self.view)
            for action in actions:
                self.do(action)
            before = self.view
            self.settle()
            if not actions and self.view == before and self.turn % 2 == 0:
                return
        raise AssertionError(f"it does not come to rest: {plan(self.view)}\n{self.view}")
