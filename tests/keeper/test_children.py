"""The supervisor's view of a child, with a real process and the times of the test's own."""

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator

import pytest

from keeper.children import STOPPED_S, Child, is_stopped
from keeper.patience import PAUSE_S
from keeper.scoreboard import Scoreboards

LOOKS = int(STOPPED_S) + 2


@pytest.fixture
def child() -> Iterator[Child]:
    ours, theirs = socket.socketpair()
    with theirs, subprocess.Popen(["sleep", "600"]) as process:
        child = Child(
            pid=process.pid, state="serving", channel=ours, scoreboard=Scoreboards(1).at(0), index=0
        )
        yield child
        child.close()
        process.kill()


Wait = Callable[[Callable[[], bool]], None]


def test_a_child_that_stays_stopped_counts_as_dead(child: Child, wait_for: Wait) -> None:
    assert [child.reason_for_burying(float(now)) for now in range(LOOKS)] == [""] * LOOKS
    os.kill(child.pid, signal.SIGSTOP)
    wait_for(lambda: is_stopped(child.pid))
    reasons = [child.reason_for_burying(100.0 + now) for now in range(LOOKS)]
    assert not any(reasons[: int(STOPPED_S) + 1])
    assert "stopped by a signal" in reasons[-1]


def test_a_child_that_is_continued_in_time_lives(child: Child, wait_for: Wait) -> None:
    for begin in (0.0, 100.0):
        os.kill(child.pid, signal.SIGSTOP)
        wait_for(lambda: is_stopped(child.pid))
        for look in range(int(STOPPED_S)):
            assert child.reason_for_burying(begin + look) == ""
        os.kill(child.pid, signal.SIGCONT)
        wait_for(lambda: not is_stopped(child.pid))
        assert child.reason_for_burying(begin + STOPPED_S) == ""


def test_a_pause_of_the_whole_machine_ends_nobody(child: Child, wait_for: Wait) -> None:
    # All were stopped, and this one has not been continued yet. Its call is late by an hour.
    os.kill(child.pid, signal.SIGSTOP)
    wait_for(lambda: is_stopped(child.pid))
    child.scoreboard.enter(10.0)
    assert (child.reason_for_burying(9.0), child.reason_for_killing(9.0, 4.0)) == ("", "")
    assert (child.reason_for_burying(3600.0), child.reason_for_killing(3600.0, 4.0)) == ("", "")


def test_a_call_past_its_deadline_is_given_time_that_somebody_has_watched(child: Child) -> None:
    child.scoreboard.enter(10.0)
    looks = [child.reason_for_killing(10.5 + look, 4.0) for look in range(6)]
    assert looks[:5] == [""] * 5
    assert "stuck in a host call" in looks[5]


def test_calls_that_are_each_late_for_a_moment_do_not_add_up(child: Child) -> None:
    for call in range(10):
        child.scoreboard.enter(10.0 + call)
        assert child.reason_for_killing(10.5 + call, PAUSE_S / 2) == ""


def test_a_process_that_is_gone_is_not_stopped() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert not is_stopped(process.pid)
