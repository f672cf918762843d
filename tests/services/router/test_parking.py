"""The parking lot against a model that is a plain list."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from services.router.parking import Lot
from services.router.table import Key

PER_FUNCTION, TOTAL = 3, 5
functions = st.sampled_from([("ns", "a"), ("ns", "b"), ("other", "a")])


class Parking(RuleBasedStateMachine):
    """Anyone may park, leave or be served at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.lot: Lot[int] = Lot(PER_FUNCTION, TOTAL)
        self.model: list[tuple[Key, int]] = []
        self.next = 0

    def of(self, function: Key) -> list[int]:
        return [waiter for f, waiter in self.model if f == function]

    @rule(function=functions)
    def park(self, function: Key) -> None:
        self.next += 1
        room = len(self.model) < TOTAL and len(self.of(function)) < PER_FUNCTION
        assert self.lot.park(function, self.next) is room
        if room:
            self.model.append((function, self.next))

    @rule(function=functions)
    def serve(self, function: Key) -> None:
        expected = self.of(function)
        assert self.lot.next(function) == (expected[0] if expected else None)
        if expected:
            self.model.remove((function, expected[0]))

    @rule(function=functions, data=st.data())
    def leave(self, function: Key, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from([*self.of(function), -1]))
        assert self.lot.leave(function, waiter) is (waiter != -1)
        if waiter != -1:
            self.model.remove((function, waiter))

    @invariant()
    def counts_agree(self) -> None:
        assert len(self.lot) == len(self.model)
        waiting = {f: len(self.of(f)) for f, _ in self.model}
        assert dict(self.lot.functions()) == waiting
        for function, count in waiting.items():
            assert self.lot.waiting(function) == count
        assert set(self.lot._queues) == set(waiting)


TestParking = Parking.TestCase
