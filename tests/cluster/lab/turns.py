"""Test runs that share a lab, one after another.

A run has the lab for itself from its beginning to its end. The kernel lets go of what a killed run
held, and the next one removes the lab that it left. A lab that was brought up by hand is used by
the run and left as it is.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.cluster.lab import node, paths, tiers

_KEPT = paths.STATE / "kept"


def keep() -> None:
    """Have the lab that runs outlive the test runs that use it."""
    _KEPT.touch()


@contextmanager
def turn(waiting: Callable[[], None]) -> Iterator[None]:
    """Have the lab to oneself; call `waiting` if another run has it.

    What was not brought up by hand is down before, and down afterwards.
    """
    paths.LAB.mkdir(parents=True, exist_ok=True)
    # Closed in what this process becomes or starts: only this process holds the lock.
    held = os.open(paths.LAB / "turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(held, fcntl.LOCK_EX)
        by_hand = node.running() and _KEPT.exists()
        if not by_hand:
            tiers.down()
        try:
            yield
        finally:
            if not by_hand:
                tiers.down()
    finally:
        os.close(held)
