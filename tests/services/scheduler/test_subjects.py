"""Specs keep to the subjects of applications, and what is outside is refused with what to do."""

import pytest

from services.bus.applications import Applications
from services.scheduler.judge import Rejected, judge

GIVEN = Applications(("app.>",), {"KEPT": ("app.kept.>",)})
FUNCTION = b'{"image": "x:1", "asynchronous": {"on_failure": {"subject": "%s"}}}'
SUBSCRIPTION = b'{"function": "f", "subject": "%s"}'
OF_A_STREAM = b'{"function": "f", "subject": "%s", "stream": "%s"}'


def refused(kind: str, payload: bytes) -> Rejected:
    verdict = judge(kind, "default", "x", payload, GIVEN)
    assert isinstance(verdict, Rejected)
    return verdict


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("subscription", SUBSCRIPTION % b"app.orders.*"),
        ("subscription", OF_A_STREAM % (b"app.kept.orders", b"KEPT")),
        ("function", FUNCTION % b"app.failed"),
        ("function", b'{"image": "x:1", "asynchronous": {"on_success": {"function": "g"}}}'),
        ("timer", b'{"function": "f", "schedule": "* * * * *"}'),
    ],
)
def test_what_keeps_to_them_is_accepted(kind: str, payload: bytes) -> None:
    assert not isinstance(judge(kind, "default", "x", payload, GIVEN), Rejected)


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("subscription", SUBSCRIPTION % b"shop.>"),
        ("subscription", OF_A_STREAM % (b"shop.orders", b"SHOP")),
        ("function", FUNCTION % b"shop.failed"),
    ],
)
def test_where_nothing_restricts_them_every_subject_of_a_user_will_do(
    kind: str, payload: bytes
) -> None:
    assert not isinstance(judge(kind, "default", "x", payload), Rejected)


def test_a_subject_outside_is_refused_with_the_command_that_adds_it() -> None:
    verdict = refused("subscription", SUBSCRIPTION % b"shop.orders")
    assert verdict.field == "$.subject"
    assert (
        "wasmfn install --subject 'app.>' --subject 'shop.orders' --stream 'KEPT=app.kept.>'"
        in verdict.message
    )


def test_a_destination_outside_is_refused_by_its_field() -> None:
    verdict = refused("function", FUNCTION % b"shop.failed")
    assert verdict.field == "$.asynchronous.on_failure.subject"
    assert "--subject 'shop.failed'" in verdict.message


def test_an_unknown_stream_is_refused_with_the_command_that_makes_it() -> None:
    verdict = refused("subscription", OF_A_STREAM % (b"app.orders", b"ORDERS"))
    assert verdict.field == "$.stream"
    assert "--stream 'KEPT=app.kept.>' --stream 'ORDERS=app.orders'" in verdict.message


def test_a_stream_of_the_platform_is_no_stream_of_applications() -> None:
    verdict = refused("subscription", OF_A_STREAM % (b"app.orders", b"SPECS"))
    assert verdict.field == "$.stream"


def test_a_subject_that_the_stream_does_not_keep_is_refused() -> None:
    verdict = refused("subscription", OF_A_STREAM % (b"app.orders", b"KEPT"))
    assert verdict.field == "$.subject"
    assert "`app.kept.>`" in verdict.message
