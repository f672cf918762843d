"""`plan` against a model of the world that carries its actions out."""

import msgspec
from hypothesis import event, given
from hypothesis import strategies as st

from schemas.specs import FunctionSpec, Scaling
from services.scheduler.judge import Resolved
from services.scheduler.plan import (
    AskIdle,
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
from services.scheduler.scaling import Ask, bounds, processes_for
from tests.services.scheduler.model import (
    SCALINGS,
    SOURCE,
    Model,
    build,
    function,
    spec,
    views,
)


def image(scaling: Scaling) -> FunctionSpec:
    one_each = msgspec.structs.replace(scaling, processes=1)
    return FunctionSpec(image="web:1", executor="deployment", scaling=one_each)


@given(views(), st.booleans(), st.booleans())
def test_it_comes_to_rest_with_what_is_wanted_or_with_what_was_good(
    start: View, loads: bool, builds: bool
) -> None:
    model = Model(start, loads, builds)
    model.run()
    end = model.view
    published = {one.revision for one in end.processes if one.published}
    assert {one.state for one in end.processes} <= {"serving"}, "nothing is left over"
    assert all(one.published for one in end.processes)
    if start.wanted is None:
        assert (end.active, end.status, end.processes) == (None, None, ())
        return
    assert end.status is not None
    assert end.status.observed_revision == end.observed
    assert end.status.active_revision == (end.active.revision if end.active else None)
    assert published <= ({end.active.revision} if end.active else set())
    event(end.status.phase)
    if isinstance(start.wanted, Resolved):
        if end.status.phase == "active":
            assert end.active is not None
            assert end.active.revision == start.wanted.revision
        else:
            assert end.status.phase == "failed"
            assert end.active == start.active, "the last good one stands"
            assert not loads or end.build is None or end.build.state == "failed"
    else:
        assert end.active == start.active
    if loads and end.active is not None:
        scaling = end.active.spec.scaling
        least, _ = bounds(scaling)
        assert len(published and end.processes) >= min(least, processes_for(scaling, end.load))


@given(views(), SCALINGS, st.booleans())
def test_an_image_of_its_own_comes_to_rest_without_a_build(
    view: View, scaling: Scaling, loads: bool
) -> None:
    # Only keepers are replaced under their processes.
    processes = tuple(msgspec.structs.replace(one, moving=False) for one in view.processes)
    wanted = Resolved(view.observed, image(scaling), None)
    start = msgspec.structs.replace(view, wanted=wanted, processes=processes)
    assert not [action for action in plan(start) if isinstance(action, RequestBuild)]
    model = Model(start, loads, builds=False)
    model.run()
    end = model.view
    assert end.status is not None
    assert end.active is not None or not loads
    assert end.status.phase == (
        "active" if end.active and end.active.artifact is None else "failed"
    )
    assert all(one.published and one.state == "serving" for one in end.processes)


@given(views())
def test_nothing_is_done_twice_for_what_is_under_way(view: View) -> None:
    model = Model(view, loads=True, builds=True)
    for action in plan(view):
        model.do(action)
    again = plan(model.view)
    assert not [a for a in again if isinstance(a, (RequestBuild, Drain, Forget, Withdraw))] or (
        # What the first round brought to light, such as a revision just replaced.
        model.view.active != view.active or view.processes != model.view.processes
    )
    assert not (
        [a for a in plan(view) if isinstance(a, Load)]
        and [a for a in again if isinstance(a, Load)]
        and view.active == model.view.active
        and view.build == model.view.build
    )


def at_rest(revision: int = 1, count: int = 1, scaling: Scaling | None = None) -> View:
    scaling = scaling or Scaling()
    start = View(
        namespace="default",
        name="f",
        observed=revision,
        wanted=Resolved(revision, spec(scaling), SOURCE),
        active=function(revision, scaling),
        build=build("ready"),
        build_asked=True,
        processes=tuple(Process(str(n), revision, "serving", True) for n in range(count)),
    )
    model = Model(start, loads=True, builds=True)
    model.run()
    return model.view


def update(view: View, revision: int) -> View:
    assert isinstance(view.wanted, Resolved)
    wanted = msgspec.structs.replace(view.wanted, revision=revision)
    return msgspec.structs.replace(view, observed=revision, wanted=wanted)


def test_an_update_loads_publishes_activates_and_only_then_withdraws() -> None:
    model = Model(update(at_rest(), 2), loads=True, builds=True)
    done: list[str] = []
    for _ in range(12):
        for action in plan(model.view):
            done.append(type(action).__name__)
            model.do(action)
        model.settle()
    steps = [step for step in done if step != "SetStatus"]
    assert steps == ["Load", "Publish", "Activate", "Withdraw", "Drain", "Forget"]


def test_what_a_keeper_holds_that_is_replaced_goes_when_as_much_serves_elsewhere() -> None:
    start = at_rest(count=3, scaling=Scaling(min_instances=3, max_instances=3))
    moving = tuple(msgspec.structs.replace(one, moving=True) for one in start.processes)
    model = Model(msgspec.structs.replace(start, processes=moving), loads=True, builds=True)
    (load,) = plan(model.view)
    assert isinstance(load, Load)
    assert (load.count, load.reason) == (3, "its keeper is replaced")
    model.run()
    assert len(model.view.processes) == 3
    assert not any(one.moving for one in model.view.processes)


def test_what_cannot_be_loaded_elsewhere_stays_where_it_is() -> None:
    start = at_rest(count=2, scaling=Scaling(max_instances=3))
    moving = tuple(msgspec.structs.replace(one, moving=True) for one in start.processes)
    model = Model(msgspec.structs.replace(start, processes=moving), loads=False, builds=True)
    model.run()
    assert model.view.processes == moving


def test_the_status_says_what_the_keeper_of_a_first_process_waits_for() -> None:
    view = msgspec.structs.replace(update(at_rest(), 2), waits="keeper-1: ErrImagePull")
    statuses = [action for action in plan(view) if isinstance(action, SetStatus)]
    assert "waits for a keeper: keeper-1: ErrImagePull" in statuses[0].message


def test_under_load_a_new_revision_takes_over_with_as_many_processes() -> None:
    busy = msgspec.structs.replace(update(at_rest(count=3), 2), load=40)
    loads = [action for action in plan(busy) if isinstance(action, Load)]
    assert [(load.function.revision, load.count) for load in loads] == [(2, 4), (1, 1)]


def test_a_failing_revision_is_left_alone_for_a_while_and_the_old_one_looked_after() -> None:
    view = update(at_rest(scaling=Scaling(min_instances=1)), 2)
    failing = msgspec.structs.replace(
        view, failures=(Failure(2, "no secret", False),), processes=()
    )
    actions = plan(failing)
    assert [a.function.revision for a in actions if isinstance(a, Load)] == [1]
    assert [a for a in actions if isinstance(a, SetStatus)] == [SetStatus("failed", "no secret", 1)]
    later = msgspec.structs.replace(failing, failures=(Failure(2, "no secret", True),))
    assert 2 in [a.function.revision for a in plan(later) if isinstance(a, Load)]


def test_a_build_that_was_cancelled_is_asked_for_by_whoever_wants_it_now() -> None:
    view = msgspec.structs.replace(update(at_rest(), 2), build=build("cancelled"))
    for asked in (False, True):
        actions = plan(msgspec.structs.replace(view, build_asked=asked))
        assert RequestBuild(SOURCE, retry=False) in actions


def test_a_build_that_failed_is_asked_for_again_by_a_new_revision_only() -> None:
    view = msgspec.structs.replace(update(at_rest(), 2), build=build("failed"), build_asked=False)
    assert RequestBuild(SOURCE, retry=True) in plan(view)
    asked = msgspec.structs.replace(view, build_asked=True)
    assert not [a for a in plan(asked) if isinstance(a, RequestBuild)]
    model = Model(asked, loads=True, builds=False)
    model.run()
    new_leader = msgspec.structs.replace(model.view, build_asked=False)
    assert plan(new_leader) == ()


def test_the_status_says_what_a_build_waits_for() -> None:
    waiting = msgspec.structs.replace(build("building"), error="the registry is away")
    view = View(
        namespace="default",
        name="f",
        wanted=Resolved(1, spec(Scaling()), SOURCE),
        build=waiting,
        build_asked=True,
    )
    (status,) = plan(view)
    assert isinstance(status, SetStatus)
    assert status.phase == "building"
    assert "the registry is away" in status.message


def test_an_artifact_for_another_engine_is_built_again() -> None:
    view = msgspec.structs.replace(at_rest(), engine="newer", build_asked=False)
    assert RequestBuild(SOURCE, retry=True) in plan(view)


def test_nobody_is_asked_to_go_while_a_router_says_that_it_is_needed() -> None:
    ask = Ask("0", 1.0, "idle")
    idle = msgspec.structs.replace(at_rest(), ask=ask)
    assert plan(idle) == (AskIdle(ask),)
    assert plan(msgspec.structs.replace(idle, load=1)) == ()


def test_what_is_on_a_retiring_keeper_is_not_published_before_its_revision_is_in_force() -> None:
    early = Process("early", 2, "serving", False, moving=True)
    start = update(at_rest(), 2)
    start = msgspec.structs.replace(start, processes=(*start.processes, early))
    model = Model(start, loads=False, builds=True)
    assert Publish("early") not in plan(start)
    model.run()
    assert [one.revision for one in model.view.processes] == [1]
    model = Model(start, loads=True, builds=True)
    model.run()
    assert [(one.revision, one.moving) for one in model.view.processes] == [(2, False)]
