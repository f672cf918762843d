import msgspec
from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.placement import Change, Keeper, change, choose

NAMESPACE = st.sampled_from(["a", "b"])
ENGINE = st.sampled_from(["e1", "e2"])


@st.composite
def keepers(draw: st.DrawFn) -> list[Keeper]:
    return [
        Keeper(
            uid=str(number),
            namespace=draw(NAMESPACE),
            dedicated=draw(st.sampled_from(["", "f"])),
            ready=draw(st.booleans()),
            starting=draw(st.booleans()),
            engine=draw(ENGINE),
            capacity=4,
            held=draw(st.integers(0, 5)),
            of_function=draw(st.integers(0, 2)),
            idle_s=draw(st.floats(0, 100)),
        )
        for number in range(draw(st.integers(0, 6)))
    ]


@given(keepers(), NAMESPACE, st.sampled_from(["", "f"]), ENGINE, st.frozensets(st.integers(0, 5)))
def test_a_function_is_placed_only_where_it_may_be_and_where_there_is_room(
    have: list[Keeper], namespace: str, dedicated: str, engine: str, avoid: frozenset[int]
) -> None:
    avoided = {str(number) for number in avoid}
    fitting = {
        keeper.uid
        for keeper in have
        if keeper.ready
        and keeper.held < keeper.capacity
        and (keeper.namespace, keeper.dedicated, keeper.engine) == (namespace, dedicated, engine)
        and keeper.uid not in avoided
    }
    uid = choose(have, namespace, dedicated, engine, avoided)
    assert (uid in fitting) if fitting else uid is None


def keeper(uid: str, held: int = 0, **fields: object) -> Keeper:
    known = {"namespace": "a", "ready": True, "engine": "e", "capacity": 4, **fields}
    return Keeper(uid=uid, held=held, **known)  # type: ignore[arg-type]


def test_processes_of_one_function_are_spread_before_keepers_are_filled() -> None:
    assert choose([keeper("1", 1, of_function=1), keeper("2", 3)], "a", "", "e") == "2"
    assert choose([keeper("1", 3), keeper("2", 1)], "a", "", "e") == "2"


@given(keepers(), st.booleans(), st.integers(0, 10), st.integers(1, 6), st.floats(0, 100))
def test_a_change_of_the_fleet_keeps_the_room_that_is_wanted(
    have: list[Keeper], needed: bool, wanted: int, most: int, linger: float
) -> None:
    decided = change(
        have, needed=needed, wanted_room=wanted, capacity=4, most=most, linger_s=linger
    )
    stopped = [one for one in have if one.uid in decided.stop]
    assert all(one.ready and one.held == 0 for one in stopped), "what is used is not stopped"
    left = sum(max(0, one.room) for one in have if one not in stopped)
    if decided.start:
        assert needed
        assert left < wanted
        assert len(have) + decided.start <= most
        coming = decided.start + sum(one.starting for one in have)
        assert left + 4 * (coming - 1) < wanted, "no more are started than are wanted"
    if needed and stopped:
        assert left >= wanted
        assert all(one.idle_s >= linger for one in stopped)


def test_a_namespace_that_needs_nothing_keeps_no_empty_keeper() -> None:
    have = [keeper("1"), keeper("2", 1)]
    assert change(have, needed=False, wanted_room=0, capacity=4, most=9, linger_s=60).stop == ("1",)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=5), st.booleans(), st.integers(1, 5))
def test_outdated_keepers_are_replaced_one_by_one_when_others_can_take_what_they_hold(
    holds: list[int], busy: bool, most: int
) -> None:
    have = [keeper(f"old{n}", held, outdated=True) for n, held in enumerate(holds)]
    total, most = sum(holds), max(most, len(holds))
    for made in range(50):
        decided = change(
            have, needed=True, wanted_room=int(busy), capacity=4, most=most, linger_s=60
        )
        assert len(have) + decided.start <= most + 1
        if decided.retire:
            (chosen,) = (one for one in have if one.uid == decided.retire)
            assert not any(one.retiring for one in have), "one at a time"
            spare = sum(one.room for one in have if not one.outdated)
            assert spare >= chosen.held
            # What it holds is loaded elsewhere, and then ends there.
            have.remove(chosen)
            for _ in range(chosen.held):
                uid = choose(have, "a", "", "e")
                assert uid is not None
                (taker,) = (one for one in have if one.uid == uid)
                assert not taker.outdated, "what is to stay is placed on what is to stay"
                have[have.index(taker)] = msgspec.structs.replace(taker, held=taker.held + 1)
            have.append(msgspec.structs.replace(chosen, retiring=True, held=0))
        elif decided.stop:
            assert all(one.held == 0 for one in have if one.uid in decided.stop)
            have = [one for one in have if one.uid not in decided.stop]
        elif decided.start:
            have += [keeper(f"new{made}.{n}") for n in range(decided.start)]
        else:
            break
    assert not any(one.outdated for one in have)
    assert sum(one.held for one in have) == total


def test_while_what_replaces_them_does_not_come_up_outdated_keepers_serve_and_take_more() -> None:
    have = [
        keeper("old", 2, outdated=True),
        keeper("new", ready=False, starting=True, capacity=0),
    ]
    decided = change(have, needed=True, wanted_room=1, capacity=4, most=1, linger_s=0)
    assert (decided.start, decided.stop, decided.retire) == (0, (), "")
    assert choose(have, "a", "", "e") == "old"


def test_an_outdated_keeper_serves_on_until_there_is_room_for_all_that_it_holds() -> None:
    have = [keeper("old", 4, outdated=True), keeper("new", 2)]
    asked = {"needed": True, "wanted_room": 0, "capacity": 4, "linger_s": 60}
    assert change(have, most=1, **asked) == Change()  # type: ignore[arg-type]
    assert change(have, most=2, **asked) == Change(start=1)  # type: ignore[arg-type]


def test_an_outdated_keeper_that_never_came_up_goes_too() -> None:
    stuck = keeper("stuck", ready=False, starting=True, capacity=0, outdated=True)
    have = [stuck, keeper("new")]
    asked = {"needed": True, "wanted_room": 1, "capacity": 4, "most": 9, "linger_s": 60}
    assert change(have, **asked).retire == "stuck"  # type: ignore[arg-type]
    have[0] = msgspec.structs.replace(stuck, retiring=True)
    assert change(have, **asked).stop == ("stuck",)  # type: ignore[arg-type]


def test_a_keeper_that_is_being_replaced_takes_nothing_more() -> None:
    assert choose([keeper("old", outdated=True, retiring=True)], "a", "", "e") is None
