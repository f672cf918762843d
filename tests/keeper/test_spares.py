import math
import os
import socket
from collections.abc import Iterator

import pytest

from keeper.children import Child
from keeper.scoreboard import Scoreboards
from keeper.spares import DELAY_S, MORE_FOR_S, MOST, PAUSE_S, Spares


@pytest.fixture
def children() -> Iterator[list[Child]]:
    boards = Scoreboards(MOST)
    pairs = [socket.socketpair() for _ in range(MOST)]
    children = [
        Child(pid=os.getpid(), state="spare", channel=ours, scoreboard=boards.at(i), index=i)
        for i, (ours, _) in enumerate(pairs)
    ]
    yield children
    for child in children:
        child.close()
    for _, theirs in pairs:
        theirs.close()


def test_an_idle_keeper_has_one(children: list[Child]) -> None:
    spares = Spares()
    assert spares.missing(1.0)
    spares.add(children[0])
    assert not spares.missing(1.0)
    assert spares.due(1.0) == math.inf
    assert spares.surplus(1.0) == []


def test_the_next_one_waits_until_the_load_has_had_the_processor(children: list[Child]) -> None:
    spares = Spares()
    spares.add(children[0])
    assert spares.take(10.0) is children[0]
    assert spares.due(10.0) == 10.0 + DELAY_S
    assert not spares.missing(10.0 + DELAY_S / 2)
    assert spares.missing(10.0 + DELAY_S)


def test_after_a_load_that_found_none_there_are_more_for_a_while(children: list[Child]) -> None:
    spares = Spares()
    assert spares.take(10.0) is None
    for child in children:
        assert spares.missing(11.0)
        spares.add(child)
    assert not spares.missing(11.0)
    assert spares.surplus(11.0) == []
    assert spares.surplus(10.0 + MORE_FOR_S) == children[1:]
    assert spares.surplus(10.0 + MORE_FOR_S) == []
    assert spares.take(50.0) is children[0]


def test_one_that_dies_is_replaced_after_a_pause(children: list[Child]) -> None:
    spares = Spares()
    spares.add(children[0])
    spares.lost(children[0], 10.0)
    assert not spares.missing(10.0 + PAUSE_S / 2)
    assert spares.missing(10.0 + PAUSE_S)
    spares.lost(children[1], 20.0)
    assert spares.missing(20.0)
