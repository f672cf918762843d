import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from keeper.control import (
    WINDOW,
    ControlCall,
    RefusedError,
    Window,
    admit,
    authenticate,
    parse_head,
)
from schemas.control import KeeperProblem
from schemas.signing import SIGNATURE_HEADER, SIGNED_HEADER, Claims, control_text

CLAIMS = Claims("k1", "b1", 3, 7, "0" * 64)


def head(method: str = "POST", path: str = "/load", *lines: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


def signed(claims: Claims = CLAIMS, signature: str = "aa") -> tuple[str, str]:
    return (
        f"{SIGNED_HEADER}: {msgspec.json.encode(claims).decode()}",
        f"{SIGNATURE_HEADER}: {signature}",
    )


def problem_of(call: object) -> KeeperProblem:
    with pytest.raises(RefusedError) as caught:
        call()  # type: ignore[operator]
    return caught.value.problem


def test_a_head_says_what_is_called_and_by_whom() -> None:
    call = parse_head(head("POST", "/load", "Content-Length: 12", *signed()))
    assert call == ControlCall("POST", "/load", 12, False, CLAIMS, b"\xaa")


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["Transfer-Encoding: chunked"], "bad-request"),
        (["Content-Length: 1", "Content-Length: 2"], "bad-request"),
        (["Content-Length: -1"], "bad-request"),
        ([f"{SIGNED_HEADER}: nonsense"], "unsigned"),
        ([f'{SIGNED_HEADER}: {{"keeper":"k"}}'], "unsigned"),
        ([*signed(signature="zz")], "unsigned"),
        ([*signed(), *signed()], "bad-request"),
    ],
)
def test_a_head_that_makes_no_sense_is_refused(lines: list[str], problem: str) -> None:
    assert problem_of(lambda: parse_head(head("POST", "/load", *lines))) == problem


@given(st.binary(max_size=300))
def test_any_bytes_are_a_call_or_refused(data: bytes) -> None:
    try:
        parse_head(data + b"\r\n\r\n")
    except RefusedError as refused:
        answer = refused.response
    else:
        return
    assert answer.startswith(b"HTTP/1.1 4")


def call_with(claims: Claims | None) -> ControlCall:
    return ControlCall("POST", "/load", 0, False, claims, b"s")


def test_a_call_without_claims_or_with_a_wrong_signature_is_unsigned() -> None:
    assert problem_of(lambda: authenticate(call_with(None), "k1", "b1", lambda *_: True)) == (
        "unsigned"
    )
    assert problem_of(lambda: authenticate(call_with(CLAIMS), "k1", "b1", lambda *_: False)) == (
        "unsigned"
    )


@pytest.mark.parametrize(("keeper", "boot"), [("k2", "b1"), ("k1", "b2")])
def test_a_call_for_another_process_is_refused(keeper: str, boot: str) -> None:
    assert problem_of(lambda: authenticate(call_with(CLAIMS), keeper, boot, lambda *_: True)) == (
        "unsigned"
    )


def test_the_signature_covers_method_path_and_claims() -> None:
    seen: list[tuple[bytes, bytes]] = []

    def verify(signature: bytes, text: bytes) -> bool:
        seen.append((signature, text))
        return True

    assert authenticate(call_with(CLAIMS), "k1", "b1", verify) == CLAIMS
    assert seen == [(b"s", control_text("POST", "/load", CLAIMS))]


class Replay(RuleBasedStateMachine):
    """The window against the plain rule: remember every counter of the term."""

    def __init__(self) -> None:
        super().__init__()
        self.window = Window()
        self.term = 0
        self.used: set[int] = set()

    def model(self, term: int, counter: int) -> KeeperProblem | None:
        if term < self.term:
            return "stale-term"
        used = self.used if term == self.term else set()
        if counter < 0 or counter in used or counter <= max(used, default=-1) - WINDOW:
            return "replay"
        return None

    def try_call(self, term: int, counter: int) -> None:
        expected = self.model(term, counter)
        if expected is not None:
            assert problem_of(lambda: admit(self.window, term, counter)) == expected
            return
        self.window = admit(self.window, term, counter)
        self.used = self.used | {counter} if term == self.term else {counter}
        self.term = term

    @rule(ahead=st.integers(1, 3 * WINDOW))
    def a_later_counter(self, ahead: int) -> None:
        self.try_call(self.term, max(self.used, default=-1) + ahead)

    @precondition(lambda self: self.used)
    @rule(behind=st.integers(0, WINDOW + 2))
    def an_earlier_counter(self, behind: int) -> None:
        self.try_call(self.term, max(self.used) - behind)

    @rule(term=st.integers(0, 5), counter=st.integers(-2, 4 * WINDOW))
    def any_call(self, term: int, counter: int) -> None:
        self.try_call(term, counter)

    @invariant()
    def it_is_small(self) -> None:
        assert self.window.seen < 1 << WINDOW


test_no_counter_is_obeyed_twice_and_no_term_returns = Replay.TestCase
