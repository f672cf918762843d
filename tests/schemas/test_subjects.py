"""Subjects: every text survives the trip into a subject and back; no token leaks into another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import subjects
from schemas.subjects import Template, escape_token, unescape_token

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@given(texts)
def test_a_token_gives_its_text_back(text: str) -> None:
    assert unescape_token(escape_token(text)) == text


@given(texts)
def test_a_token_holds_nothing_that_nats_gives_a_meaning(text: str) -> None:
    assert not set(escape_token(text)) & set(".*> \t\r\n")


@given(st.text(max_size=12))
def test_each_text_has_exactly_one_token(token: str) -> None:
    try:
        text = unescape_token(token)
    except ValueError:
        return
    assert escape_token(text) == token


@given(namespace=texts, function=texts, instance=texts)
def test_a_template_parses_what_it_makes(namespace: str, function: str, instance: str) -> None:
    tokens = {"namespace": namespace, "function": function, "instance": instance}
    assert subjects.ENDPOINTS.parse(subjects.ENDPOINTS.subject(**tokens)) == tokens


def test_dns_labels_stay_readable() -> None:
    subject = subjects.SPECS.subject(kind="function", namespace="default", name="sort-2")
    assert subject == "wasmfn.specs.function.default.sort-2"


def test_a_node_name_with_dots_is_one_token() -> None:
    assert subjects.PODS.subject(node="n1.lan", uid="u") == "wasmfn.pods.n1=2elan.u"


@pytest.mark.parametrize(
    "subject",
    [
        "wasmfn.specs.function.default",
        "wasmfn.specs.a.b.c.d",
        "other.specs.a.b.c",
        "wasmfn.specs.a..c",
    ],
)
def test_a_foreign_subject_is_no_match_and_no_error(subject: str) -> None:
    assert subjects.SPECS.parse(subject) is None


def test_a_filter_fixes_what_is_given_and_leaves_the_rest_open() -> None:
    assert subjects.SPECS.filter(kind="route") == "wasmfn.specs.route.*.*"
    assert subjects.SPECS.wildcard == "wasmfn.specs.*.*.*"


def test_a_missing_token_is_an_error() -> None:
    with pytest.raises(KeyError):
        Template("a.{b}").subject()
