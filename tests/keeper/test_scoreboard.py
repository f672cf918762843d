import os
import time

from keeper.scoreboard import Scoreboard


def test_the_parent_reads_what_the_child_writes() -> None:
    board = Scoreboard()
    if os.fork() == 0:
        board.began()
        board.began()
        board.ended()
        board.lost_line()
        board.enter(time.monotonic() - 5)
        os._exit(0)
    os.wait()
    assert (board.served, board.in_flight, board.lost_lines) == (1, 1, 1)
    assert board.idle_s == 0.0
    assert board.overdue_s() >= 5
    board.close()


def test_nothing_is_overdue_outside_a_slice() -> None:
    board = Scoreboard()
    board.enter(time.monotonic() - 5)
    board.leave()
    assert board.overdue_s() == 0.0
    board.enter(time.monotonic() + 5)
    assert board.overdue_s() == 0.0


def test_idle_time_counts_from_the_last_end() -> None:
    board = Scoreboard()
    before = board.idle_s
    board.began()
    assert board.idle_s == 0.0
    board.ended()
    assert before <= board.idle_s + 1 < 2
