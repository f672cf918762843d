"""The retry policy: what is final, how long the pauses are, and that it ends."""

from hypothesis import given
from hypothesis import strategies as st

from schemas.invocations import Attempt
from schemas.specs import Retry
from services.router.asynchronous.policy import (
    Again,
    Dead,
    Done,
    delay_s,
    is_final,
    judge,
    with_lost,
)

retries = st.builds(
    Retry,
    attempts=st.integers(1, 100),
    first_delay_s=st.floats(0, 86_400),
    max_delay_s=st.floats(0, 86_400),
    jitter=st.floats(0, 1),
    final=st.lists(st.sampled_from(["404", "4xx", "5xx", "500", "429"])).map(tuple),
)
chances = st.floats(0, 1)


@given(retries, st.integers(1, 10**6), chances)
def test_a_pause_is_never_longer_than_the_policys_longest_nor_negative(
    retry: Retry, attempt: int, chance: float
) -> None:
    assert 0 <= delay_s(attempt, retry, chance) <= retry.max_delay_s


def test_pauses_double_and_jitter_only_shortens_them() -> None:
    retry = Retry(first_delay_s=1, max_delay_s=10, jitter=0.5)
    assert [delay_s(n, retry, 0.0) for n in range(1, 7)] == [1, 2, 4, 8, 10, 10]
    assert [delay_s(n, retry, 1.0) for n in range(1, 7)] == [0.5, 1, 2, 4, 5, 5]


@given(retries, st.sampled_from([0, 200, 404, 429, 500, 503]), chances)
def test_every_invocation_ends_within_its_attempts(
    retry: Retry, status: int, chance: float
) -> None:
    for number in range(1, retry.attempts + 1):
        verdict = judge(Attempt(number, "failed", status, "why"), retry, chance)
        if isinstance(verdict, Dead):
            return
        assert isinstance(verdict, Again)
        assert number < retry.attempts
    raise AssertionError("it was never given up")


@given(retries, chances)
def test_success_is_the_end(retry: Retry, chance: float) -> None:
    assert judge(Attempt(1, "done", 200), retry, chance) == Done()


def test_a_status_is_final_by_itself_or_by_its_class_unless_it_says_later() -> None:
    assert is_final(404, ["4xx"])
    assert not is_final(429, ["4xx"])
    assert is_final(429, ["429"])
    assert not is_final(500, ["4xx"])
    assert not is_final(0, ["4xx", "5xx"])


@given(retries, st.integers(1, 100))
def test_an_attempt_that_was_lost_says_nothing_final(retry: Retry, number: int) -> None:
    verdict = judge(Attempt(number, "lost", 404), retry, 0.0)
    assert isinstance(verdict, Again) == (number < retry.attempts)


@given(st.sets(st.integers(1, 20)), st.integers(1, 30))
def test_no_attempt_is_missing_from_the_record(known: set[int], number: int) -> None:
    attempts = with_lost([Attempt(n, "failed") for n in sorted(known)], number)
    assert [a.number for a in attempts] == list(range(1, number))
    assert all(a.outcome == ("failed" if a.number in known else "lost") for a in attempts)
