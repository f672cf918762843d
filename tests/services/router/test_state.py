"""What each message of the bus changes, and what it does not."""

import tracemalloc
from datetime import UTC, datetime
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from schemas import subjects
from schemas.active import Active, ActiveFunction, ActiveRoute
from schemas.endpoints import Endpoint
from schemas.pods import PodFact
from schemas.specs import FunctionSpec, Module, RouteSpec
from services.router.choice import FOREVER, Ejection
from services.router.state import Function, Memory, State, apply_active, apply_endpoint, apply_pod

TIME = datetime(2026, 1, 1, tzinfo=UTC)
F = ("default", "f")


def endpoint(instance: str = "i", pod: str = "pod", **fields: Any) -> Endpoint:
    values = {"namespace": "default", "function": "f", "revision": 1} | fields
    return Endpoint(
        instance=instance, pod=pod, ip="127.0.0.1", port=1, node="n", concurrency=1, token="t",
        time=TIME, **values,
    )  # fmt: skip


def subject(of: Endpoint) -> str:
    return subjects.ENDPOINTS.subject(
        namespace=of.namespace, function=of.function, instance=of.instance
    )


def put(state: State, of: Endpoint) -> list[tuple[str, str]]:
    return apply_endpoint(state, subject(of), of)


def pod(state: State, uid: str, phase: Any) -> list[tuple[str, str]]:
    fact = PodFact(uid, "n", uid, phase, TIME)
    return apply_pod(state, subjects.PODS.subject(node="n", uid=uid), fact)


names = st.sampled_from("abc")
steps = st.lists(
    st.tuples(st.sampled_from(("put", "withdraw", "kill", "revive", "forget")), names, names),
    max_size=20,
)


@given(steps)
def test_in_any_order_of_messages_what_is_dead_or_withdrawn_stays_out(
    made: list[tuple[str, str, str]],
) -> None:
    state = State()
    live: dict[str, str] = {}
    dead: set[str] = set()
    gone: set[str] = set()
    for what, instance, uid in made:
        # An instance lives in one pod for ever.
        uid = {"a": "x", "b": "x", "c": "y"}[instance] if what == "put" else "xxy"["abc".index(uid)]  # noqa: PLW2901
        if what == "put":
            put(state, endpoint(instance, uid))
            if uid not in dead and instance not in gone:
                live[instance] = uid
        elif what == "withdraw":
            apply_endpoint(state, subject(endpoint(instance)), None)
            gone.add(instance)
            live.pop(instance, None)
        elif what == "kill":
            pod(state, uid, "dead")
            dead.add(uid)
            live = {i: u for i, u in live.items() if u != uid}
        elif what == "revive":
            pod(state, uid, "running")
        else:
            apply_pod(state, subjects.PODS.subject(node="n", uid=uid), None)
        known = {c.endpoint.instance: c.endpoint.pod for c in state.candidates(F)}
        assert known == live
        assert {c.endpoint.instance for cs in state._of_pod.values() for c in cs} == set(live)


def test_each_message_names_the_functions_it_may_help() -> None:
    state = State()
    assert put(state, endpoint("a", "p")) == [F]
    assert put(state, endpoint("b", "p", function="g")) == [("default", "g")]
    assert set(pod(state, "p", "dead")) == {F, ("default", "g")}
    assert put(state, endpoint("a", "p")) == []


def test_a_message_whose_subject_says_something_else_changes_nothing() -> None:
    state = State()
    assert apply_endpoint(state, subject(endpoint("a")), endpoint("b")) == []
    assert apply_endpoint(state, "wasmfn.other", endpoint("b")) == []
    assert apply_pod(state, "wasmfn.other", None) == []
    assert apply_active(state, "wasmfn.other", None) == []
    assert state.fleets == {}


def test_a_repeated_endpoint_keeps_what_is_known_of_it() -> None:
    state = State()
    put(state, endpoint())
    candidate = state.candidates(F)[0]
    candidate.in_flight = 1
    state.eject(candidate, Ejection("refused", 9.0, 2))
    put(state, endpoint())
    assert state.candidates(F) == [candidate]
    assert (candidate.in_flight, candidate.ejected_until, candidate.failures) == (1, 9.0, 2)


def test_an_endpoint_ejected_for_good_is_dropped_and_does_not_come_back() -> None:
    state = State()
    put(state, endpoint())
    state.eject(state.candidates(F)[0], Ejection("draining", FOREVER, 0))
    assert state.candidates(F) == []
    assert put(state, endpoint()) == []


def test_a_memory_forgets_the_oldest_when_it_is_full() -> None:
    memory: Memory[int] = Memory(3)
    for i in range(5):
        memory.add(i)
    assert [i in memory for i in range(5)] == [False, False, True, True, True]


def test_a_function_with_its_route_and_endpoint_takes_less_than_two_kilobytes() -> None:
    def messages(number: int) -> list[tuple[str, bytes]]:
        name = f"function-{number}"
        route = ActiveRoute("default", name, 1, RouteSpec(function=name, path=f"/{name}"))
        function = ActiveFunction(
            "default", name, 1, FunctionSpec(module=Module("0" * 64)), "", None, "f.wasm"
        )
        active = [
            (subjects.ACTIVE.subject(kind=kind, namespace="default", name=name), encode(message))
            for kind, message in (("route", route), ("function", function))
        ]
        at = endpoint(f"{number:016}", function=name)
        return [*active, (subject(at), encode(at))]

    encode = msgspec.json.encode
    count = 250
    state = State()
    taken = []
    for batch in range(4):
        told = [m for number in range(count) for m in messages(batch * count + number)]
        tracemalloc.start()
        try:
            for at, payload in told:
                if at.startswith("wasmfn.active."):
                    apply_active(state, at, msgspec.json.decode(payload, type=Active))
                else:
                    apply_endpoint(state, at, msgspec.json.decode(payload, type=Endpoint))
            taken.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
    assert len(state.functions) == len(state.table) == len(state.fleets) == 4 * count
    # A table that grows in one batch, such as Python's own of interned words, does not in another.
    assert min(taken) / count < 2048


def test_a_fleet_stays_while_its_function_is_in_force_or_anything_is_at_its_endpoints() -> None:
    state = State()
    function = Function(F, 1, timeout_s=1.0, body_bytes=1)
    state.put_function(function)
    fleet = state.fleet(F)
    put(state, endpoint("a"))
    state.withdraw(F, "a")
    assert state.fleet(F) is fleet
    put(state, endpoint("b"))
    state.candidates(F)[0].in_flight = fleet.in_flight = 1
    state.remove_function(F)
    assert state.fleets == {F: fleet}
    state.withdraw(F, "b")
    assert state.fleets == {F: fleet}
    fleet.in_flight = 0
    state.dismiss(fleet)
    assert state.fleets == {}


def test_every_change_of_a_route_or_function_makes_a_new_edition() -> None:
    state = State()
    route = ActiveRoute("default", "r", 1, RouteSpec(function="f", path="/f"))
    at = subjects.ACTIVE.subject(kind="route", namespace="default", name="r")
    spec = FunctionSpec(module=Module("0" * 64))
    function = ActiveFunction("default", "f", 1, spec, "", None, "f.wasm")
    of = subjects.ACTIVE.subject(kind="function", namespace="default", name="f")
    editions = [state.edition]
    for where, active in ((at, route), (of, function), (at, None), (of, None)):
        apply_active(state, where, active)
        editions.append(state.edition)
    assert len(set(editions)) == 5
