import faulthandler
import math
import os
import signal
import time

from keeper.scoreboard import Scoreboards


def test_the_parent_reads_what_the_child_writes() -> None:
    board = Scoreboards(1).at(0)
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
    assert board.slice_deadline < time.monotonic() - 4


def test_nothing_has_to_end_outside_a_slice() -> None:
    board = Scoreboards(1).at(0)
    assert board.slice_deadline == math.inf
    board.enter(12.5)
    assert board.slice_deadline == 12.5
    board.leave()
    assert board.slice_deadline == math.inf


def test_a_page_begins_anew_for_the_next_child() -> None:
    board = Scoreboards(1).at(0)
    board.began()
    board.ended()
    board.began()
    board.enter(time.monotonic() - 5)
    board.lost_line()
    board.clear()
    assert (board.served, board.in_flight, board.lost_lines) == (0, 0, 0)
    assert board.slice_deadline == math.inf
    assert board.idle_s < 1


def test_a_fork_has_its_own_page_only() -> None:
    boards = Scoreboards(3)
    boards.keep_from_forks()
    boards.give_to_forks(1)
    readable = []
    for index in range(3):
        pid = os.fork()
        if pid == 0:
            faulthandler.disable()
            os._exit(boards.at(index).served)
        readable.append(os.waitpid(pid, 0)[1])
    assert readable == [signal.SIGSEGV, 0, signal.SIGSEGV]
    boards.keep_from_forks(1)
    if (pid := os.fork()) == 0:
        faulthandler.disable()
        os._exit(boards.at(1).served)
    assert os.waitpid(pid, 0)[1] == signal.SIGSEGV


def test_idle_time_counts_from_the_last_end() -> None:
    board = Scoreboards(1).at(0)
    board.clear()
    before = board.idle_s
    board.began()
    assert board.idle_s == 0.0
    board.ended()
    assert before <= board.idle_s + 1 < 2
