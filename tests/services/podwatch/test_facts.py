from datetime import UTC, datetime, timedelta

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from schemas.control import KeeperHealth
from schemas.pods import PodFact
from services.podwatch import facts
from services.podwatch.sources import PodSeen

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(seconds=1)
POD = PodSeen("u1", "keeper-1", {"wasmfn/role": "keeper"}, "10.0.0.1", 10087, NOW)
HEALTH = KeeperHealth("u1", "boot-1", "engine-1", 8, 0)


def ready() -> PodFact:
    return facts.answered(facts.seen("n", POD, None, NOW), HEALTH, NOW)


def test_a_pod_without_an_address_is_pending():
    pod = msgspec.structs.replace(POD, ip="")
    assert facts.seen("n", pod, None, NOW).phase == "pending"


def test_a_pod_is_ready_only_once_its_own_keeper_answered():
    fact = facts.seen("n", POD, None, NOW)
    stranger = msgspec.structs.replace(HEALTH, keeper="u2")
    assert not fact.ready
    assert facts.answered(fact, stranger, NOW) == fact
    answered = facts.answered(fact, HEALTH, NOW)
    assert (answered.ready, answered.boot, answered.engine, answered.capacity) == (
        True, "boot-1", "engine-1", 8,
    )  # fmt: skip


def test_a_function_of_its_own_image_is_ready_once_its_port_took_a_connection():
    fact = facts.connected(facts.seen("n", POD, None, NOW), LATER)
    assert (fact.ready, fact.time) == (True, LATER)
    dead = facts.dead(fact, "gone", LATER)
    assert facts.connected(dead, LATER) == dead


def test_a_pod_seen_again_stays_ready():
    assert facts.seen("n", POD, ready(), NOW) == ready()


def test_a_pod_with_another_address_or_start_has_to_answer_again():
    for change in ({"ip": "10.0.0.2"}, {"port": 7}, {"started_at": LATER}):
        pod = msgspec.structs.replace(POD, **change)
        fact = facts.seen("n", pod, ready(), NOW)
        assert (fact.ready, fact.boot) == (False, "")


def test_only_the_first_reason_of_a_death_stands():
    fact = facts.dead(ready(), "its process ended", NOW)
    assert facts.dead(fact, "something else", LATER) == fact
    assert (fact.phase, fact.ready, fact.reason) == ("dead", False, "its process ended")


def test_another_time_alone_is_no_news():
    later = msgspec.structs.replace(ready(), time=LATER)
    assert not facts.is_news(ready(), later)
    assert facts.is_news(None, later)
    assert facts.is_news(ready(), facts.dead(ready(), "x", LATER))


def test_nothing_is_news_of_a_pod_that_was_told_dead():
    assert not facts.is_news(facts.dead(ready(), "x", NOW), ready())


def test_told_pods_that_do_not_run_have_vanished_unless_they_are_dead():
    told = {
        "here": msgspec.structs.replace(ready(), uid="here"),
        "gone": msgspec.structs.replace(ready(), uid="gone"),
        "dead": facts.dead(msgspec.structs.replace(ready(), uid="dead"), "x", NOW),
    }
    assert [fact.uid for fact in facts.vanished(told, ["here", "new"])] == ["gone"]


def test_started_ready_and_dead_happen_once_each():
    started = facts.seen("n", POD, None, NOW)
    dead = facts.dead(ready(), "x", NOW)
    told = [(None, started), (started, started), (started, ready()), (ready(), ready()),
            (ready(), dead), (dead, dead)]  # fmt: skip
    assert [facts.happened(before, after) for before, after in told] == [
        "started", None, "ready", None, "dead", None,
    ]  # fmt: skip


steps = st.lists(
    st.one_of(
        st.builds(
            lambda ip, at: msgspec.structs.replace(POD, ip=ip, started_at=at),
            st.sampled_from(["", "10.0.0.1", "10.0.0.2"]),
            st.sampled_from([NOW, LATER]),
        ),
        st.builds(
            lambda uid: msgspec.structs.replace(HEALTH, keeper=uid), st.sampled_from(["u1", "u2"])
        ),
        st.just("gone"),
    ),
    max_size=12,
)


@given(steps)
def test_whatever_happens_a_dead_uid_stays_dead_and_ready_means_answered_at_this_address(story):
    fact, died, answered_at = None, False, None
    for step in story:
        match step:
            case PodSeen():
                fact = facts.seen("n", step, fact, NOW)
            case KeeperHealth() if fact is not None:
                fact = facts.answered(fact, step, NOW)
                if step.keeper == "u1" and fact.phase == "running":
                    answered_at = facts.incarnation(fact)
            case "gone" if fact is not None:
                fact, died = facts.dead(fact, "x", NOW), True
        if fact is not None:
            assert (fact.phase == "dead") == died
            assert not fact.ready or facts.incarnation(fact) == answered_at
