import pytest

from keeper.patience import PAUSE_S, Patience


def test_what_holds_at_every_look_is_counted() -> None:
    patience = Patience()
    assert [patience.held_s(True, 10 + i / 4) for i in range(5)] == [0, 0.25, 0.5, 0.75, 1]


def test_one_look_at_which_it_does_not_hold_begins_anew() -> None:
    patience = Patience()
    looks = [(True, 0), (True, 1), (False, 1.5), (True, 2), (True, 3)]
    assert [patience.held_s(holds, now) for holds, now in looks] == [0, 1, 0, 0, 1]


@pytest.mark.parametrize("pause_s", [PAUSE_S, 60.0, 1e6])
def test_a_pause_in_which_nobody_looked_counts_no_more_than_a_moment(pause_s: float) -> None:
    patience = Patience()
    patience.held_s(True, 0.0)
    assert patience.held_s(True, pause_s) == PAUSE_S
    assert patience.held_s(True, pause_s + 0.5) == PAUSE_S + 0.5
