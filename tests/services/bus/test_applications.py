"""What of the bus belongs to applications: what a pattern takes in, and what is never theirs."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.bus.applications import Applications, is_covered

WORDS = st.lists(st.sampled_from(["a", "b", "*"]), min_size=1, max_size=4)


def matches(pattern: list[str], subject: list[str]) -> bool:
    """Return what NATS says of a subject without wildcards."""
    if pattern[-1] == ">":
        head = pattern[:-1]
        return len(subject) > len(head) and matches_all(head, subject[: len(head)])
    return matches_all(pattern, subject)


def matches_all(pattern: list[str], subject: list[str]) -> bool:
    pairs = zip(pattern, subject, strict=False)
    return len(pattern) == len(subject) and all(p in ("*", s) for p, s in pairs)


@st.composite
def patterns(draw: st.DrawFn) -> list[str]:
    return [*draw(WORDS), *draw(st.sampled_from([[], [">"]]))]


@given(patterns(), patterns(), st.lists(st.sampled_from("abc"), min_size=1, max_size=6))
def test_what_is_covered_matches_nothing_that_its_cover_does_not(
    cover: list[str], pattern: list[str], subject: list[str]
) -> None:
    if is_covered(".".join(pattern), [".".join(cover)]) and matches(pattern, subject):
        assert matches(cover, subject)


@pytest.mark.parametrize(
    ("subject", "covered"),
    [
        ("app.orders", True),
        ("app.orders.new", True),
        ("app.*.new", True),
        ("app.>", True),
        ("app", False),
        ("*.orders", False),
        ("shop.orders", False),
        ("apps.orders", False),
    ],
)
def test_a_prefix_covers_what_begins_with_it(subject: str, covered: bool) -> None:
    assert is_covered(subject, ["app.>"]) == covered


def test_several_patterns_cover_each_what_they_cover() -> None:
    assert is_covered("shop.orders", ["app.>", "shop.*"])
    assert not is_covered("shop.orders.new", ["app.>", "shop.*"])
    assert not is_covered("app.x", [])


@pytest.mark.parametrize(
    "given",
    [
        {"subjects": ["wasmfn.>"]},
        {"subjects": ["$JS.API.>"]},
        {"subjects": ["_INBOX.>"]},
        {"subjects": [">"]},
        {"subjects": ["*.x"]},
        {"subjects": ["app.>"], "streams": {"SPECS": ["app.x"]}},
        {"subjects": ["app.>"], "streams": {"OBJ_modules": ["app.x"]}},
        {"subjects": ["app.>"], "streams": {"KEPT": ["shop.x"]}},
        {"subjects": ["app.>"], "streams": {"KEPT": ["app.x", "_INBOX_router.>"]}},
        {"streams": {"KEPT": ["wasmfn.specs.>"]}},
        {"subjects": ["app.>"], "streams": {"a.b": ["app.x"]}},
    ],
)
def test_what_is_the_platforms_is_never_given_to_applications(given: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(given, Applications)
