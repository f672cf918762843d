"""What may be sent again, and what the client is told when not."""

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.retry import NOT_EXECUTED, Failure, cause_of, may_retry, problem_of

FAILURES = get_args(Failure)


@given(
    st.sampled_from(FAILURES), st.sampled_from(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")),
    st.booleans(), st.booleans(), st.integers(0, 3),
)  # fmt: skip
def test_a_call_that_may_have_run_is_never_repeated_unless_it_is_safe(
    failure: Any, method: str, replayable: bool, reused: bool, unanswered: int
) -> None:
    again = may_retry(
        failure, method=method, replayable=replayable, reused=reused, unanswered=unanswered
    )
    if again:
        assert replayable
        assert failure in NOT_EXECUTED or (
            failure == "closed" and reused and method in ("GET", "HEAD") and unanswered < 2
        )
    elif failure in NOT_EXECUTED:
        assert not replayable


@pytest.mark.parametrize("failure", FAILURES)
def test_each_final_failure_has_a_status_and_a_sentence(failure: Any) -> None:
    problem = problem_of(failure)
    expected = {"timeout": 504, "closed": 502, "malformed": 502}.get(failure, 503)
    assert problem.status == expected
    assert len(problem.detail) > 20
    assert (problem.retry_after_s is not None) == (expected == 503)


def test_a_reused_connection_that_closes_is_not_held_against_its_endpoint() -> None:
    assert cause_of("closed", reused=True) == ""
    assert cause_of("closed", reused=False) == "failed"
    assert cause_of("refused", reused=False) == "refused"
