"""The rules of the lease, over every order of events that hypothesis can think of."""

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from schemas.leases import Lease
from services.bus import election
from services.bus.election import (
    HEAD_START_S,
    LEASE_S,
    NOBODY,
    RENEW_S,
    TAKEOVER_S,
    Contender,
    StepDown,
    Wait,
    Write,
    decide,
)


def leader(term: int = 1) -> Contender:
    return election.stored(Contender("a"), 1, Lease("a", term), sent_at=10.0)


def test_an_empty_lease_is_claimed_at_once():
    assert decide(Contender("a"), 0.0) == Write(Lease("a", 1), 0, by=LEASE_S)


def test_a_lease_of_another_is_claimed_only_after_the_takeover_time_without_renewal():
    c = election.observe(Contender("b"), 5, Lease("a", 3), now=10.0)
    assert decide(c, 10.0) == Wait(10.0 + TAKEOVER_S)
    c = election.observe(c, 6, Lease("a", 3), now=11.0)
    assert decide(c, 10.0 + TAKEOVER_S) == Wait(11.0 + TAKEOVER_S)
    now = 11.0 + TAKEOVER_S
    assert decide(c, now) == Write(Lease("b", 4), 6, by=now + LEASE_S)


def test_a_released_lease_is_claimed_at_once_in_a_higher_term():
    c = election.observe(Contender("b"), 5, Lease(NOBODY, 3), now=10.0)
    assert decide(c, 10.0) == Write(Lease("b", 4), 5, by=10.0 + LEASE_S)


def test_a_leader_renews_in_its_term_and_steps_down_when_it_cannot():
    c = leader()
    assert decide(c, 10.0) == Wait(10.0 + RENEW_S)
    assert decide(c, 10.0 + RENEW_S) == Write(Lease("a", 1), 1, by=10.0 + LEASE_S)
    assert decide(c, 10.0 + LEASE_S) == StepDown()
    assert election.leads(c, 10.0 + LEASE_S - 0.01)
    assert not election.leads(c, 10.0 + LEASE_S)


def test_a_leader_that_sees_another_term_leads_no_more():
    c = election.observe(leader(), 2, Lease("b", 2), now=10.1)
    assert not election.leads(c, 10.1)
    assert c.top_term == 2


def test_a_leader_that_sees_its_own_lost_renewal_leads_on():
    c = election.observe(leader(), 2, Lease("a", 1), now=10.1)
    assert election.leads(c, 10.1)
    assert decide(c, 10.6) == Write(Lease("a", 1), 2, by=10.0 + LEASE_S)


def test_terms_go_on_in_a_stream_that_was_emptied():
    c = election.emptied(leader(term=7), now=11.0)
    assert decide(c, 11.0) == Wait(11.0 + TAKEOVER_S)
    decision = decide(c, 11.0 + TAKEOVER_S)
    assert isinstance(decision, Write)
    assert (decision.lease.term, decision.expected) == (8, 0)


def test_on_an_empty_subject_a_term_is_no_lower_than_the_first_one_that_may_be():
    decision = decide(Contender("a"), 0.0, first_term=1_700_000_000)
    assert decision == Write(Lease("a", 1_700_000_000), 0, by=LEASE_S)
    c = election.observe(Contender("b"), 5, Lease(NOBODY, 3), now=10.0)
    assert decide(c, 10.0, first_term=1_700_000_000) == Write(Lease("b", 4), 5, by=10.0 + LEASE_S)


def test_the_last_leader_claims_an_emptied_lease_before_all_others():
    standby = election.observe(Contender("b"), 1, Lease("a", 1), now=10.0)
    assert decide(election.emptied(standby, 11.0), 11.0 + TAKEOVER_S) == Wait(
        11.0 + HEAD_START_S + TAKEOVER_S
    )
    assert isinstance(decide(election.emptied(leader(), 11.0), 11.0 + TAKEOVER_S), Write)


def test_a_standbys_patience_outlasts_a_leaders_time_by_more_than_clocks_drift():
    assert TAKEOVER_S * 0.8 > LEASE_S > 2 * RENEW_S


class Elections(RuleBasedStateMachine):
    """Three contenders, one subject: pauses, lost answers, late news, drifting clocks."""

    names = st.sampled_from("abc")
    drift = 0.2
    """Clocks run at up to this much of a difference over the whole of a takeover time."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 100.0
        self.sequence = 0
        self.lease: Lease | None = None
        self.know = {name: Contender(name) for name in "abc"}
        self.sent: dict[str, tuple[Write, float]] = {}
        self.terms: dict[int, str] = {}

    def clock(self, name: str) -> float:
        """Each has its own zero and runs a little faster or slower."""
        rate = {"a": 1.0, "b": 1.0 + self.drift / 2, "c": 1.0 - self.drift / 2}[name]
        return self.time * rate + ord(name)

    @rule(twentieths=st.integers(0, 24))
    def pass_time(self, twentieths: int) -> None:
        """A coarse grain finds the narrow windows between two clocks sooner."""
        self.time += twentieths / 20

    @rule(name=names)
    def look(self, name: str) -> None:
        if self.lease is not None:
            self.know[name] = election.observe(
                self.know[name], self.sequence, self.lease, self.clock(name)
            )

    @rule(name=names)
    def act(self, name: str) -> None:
        """Do what the rules say. A write is only sent: when it arrives is another rule."""
        if name in self.sent:
            return
        now = self.clock(name)
        match decide(self.know[name], now):
            case Write() as write:
                self.sent[name] = (write, now)
            case StepDown():
                self.know[name] = election.step_down(self.know[name])

    @rule(name=names)
    def act_and_hear(self, name: str) -> None:
        """The common case, so that the rare ones happen in the middle of something."""
        self.act(name)
        if name in self.sent:
            self.deliver(name, answered=True)

    @rule()
    def all_look(self) -> None:
        for name in self.know:
            self.look(name)

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), answered=st.booleans())
    def arrive(self, data: st.DataObject, answered: bool) -> None:
        self.deliver(data.draw(st.sampled_from(sorted(self.sent))), answered)

    def deliver(self, name: str, answered: bool) -> None:
        write, sent_at = self.sent.pop(name)
        if write.expected != self.sequence:
            return
        self.sequence += 1
        self.lease = write.lease
        holder = self.terms.setdefault(write.lease.term, name)
        assert holder == name, "one term, two holders"
        if answered:
            self.know[name] = election.stored(self.know[name], self.sequence, write.lease, sent_at)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        self.sent.pop(data.draw(st.sampled_from(sorted(self.sent))))

    @rule(name=names)
    def release(self, name: str) -> None:
        c = self.know[name]
        if name in self.sent or not election.leads(c, self.clock(name)):
            return
        self.know[name] = election.step_down(c)
        if c.sequence == self.sequence and c.lease is not None:
            self.sequence += 1
            self.lease = msgspec.structs.replace(c.lease, holder=NOBODY)

    @rule(name=names)
    def restart(self, name: str) -> None:
        """A new process: it knows nothing, and has another identity in the real thing."""
        if self.lease is None or self.lease.holder != name:
            self.sent.pop(name, None)
            self.know[name] = Contender(name)

    @invariant()
    def at_most_one_leads(self) -> None:
        leading = [n for n, c in self.know.items() if election.leads(c, self.clock(n))]
        assert len(leading) <= 1, leading


Elections.TestCase.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)
TestElections = Elections.TestCase
