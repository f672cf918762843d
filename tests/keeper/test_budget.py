import os
from typing import Any

from keeper.budget import Budget
from schemas.specs import Limits


def test_children_share_one_budget() -> None:
    budget = Budget(100, 3)
    mine = budget.share(budget.reserve(), 30)
    theirs = budget.reserve()
    if os.fork() == 0:
        share = budget.share(theirs, 50)
        share.take()
        os._exit(0)
    os.wait()
    mine.take()
    assert not mine.has_room()
    budget.release(theirs)
    assert mine.has_room()
    mine.give()
    assert mine.has_room()


def test_no_budget_is_no_limit() -> None:
    budget = Budget(0, 1)
    share = budget.share(budget.reserve(), 1 << 40)
    share.take()
    assert share.has_room()


def test_a_call_beyond_the_keepers_budget_is_told_busy(start_keeper: Any) -> None:
    keeper = start_keeper("--memory-budget-mib", "200")
    large = keeper.load("hello", limits=Limits(memory_mib=256))
    status, _, headers = large.call()
    assert (status, headers["x-wasmfn-reason"]) == (421, "busy")
    small = keeper.load("hello", limits=Limits(memory_mib=100))
    for _ in range(5):
        assert small.run()["status"] == 0
