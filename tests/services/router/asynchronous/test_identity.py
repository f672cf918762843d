"""Names of invocations, and what of a request is read and kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.asynchronous.identity import (
    BadKey,
    digest_of,
    idempotency_key,
    is_name,
    kept,
    name_of,
    prefers_async,
)

keys = st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1)


@given(keys, keys, keys)
def test_one_key_of_one_function_has_one_name(namespace: str, function: str, key: str) -> None:
    name = name_of(namespace, function, "http", key)
    assert name == name_of(namespace, function, "http", key.encode())
    assert is_name(name)
    others = {
        name_of(namespace + "x", function, "http", key),
        name_of(namespace, function + "x", "http", key),
        name_of(namespace, function, "timer", key),
        name_of(namespace, function, "http", key + "x"),
        name_of(namespace, function, "http", None),
    }
    assert len(others | {name}) == 6


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (b"respond-async", True),
        (b"Respond-Async, wait=10", True),
        (b"return=minimal , respond-async;x=1", True),
        (b"wait=10", False),
        (b"no-respond-async", False),
        (b"", False),
    ],
)
def test_the_preference_is_read_as_rfc_7240_has_it(value: bytes, wanted: bool) -> None:
    assert prefers_async([(b"host", b"x"), (b"prefer", value)]) is wanted


def test_of_several_prefer_headers_each_counts() -> None:
    assert prefers_async([(b"prefer", b"wait=1"), (b"prefer", b"respond-async")])


@pytest.mark.parametrize("value", [b"", b"x" * 256, b"a\x00b", "é".encode()])
def test_a_key_that_is_none_is_refused(value: bytes) -> None:
    with pytest.raises(BadKey):
        idempotency_key([(b"idempotency-key", value)])


def test_two_keys_are_refused() -> None:
    with pytest.raises(BadKey):
        idempotency_key([(b"idempotency-key", b"a"), (b"idempotency-key", b"b")])
    assert idempotency_key([]) is None


def test_credentials_and_what_was_said_to_the_router_are_not_kept() -> None:
    headers = [
        (b"authorization", b"Bearer x"),
        (b"cookie", b"x"),
        (b"prefer", b"respond-async"),
        (b"idempotency-key", b"k"),
        (b"content-type", b"text/plain"),
    ]
    assert kept(headers) == (("content-type", "text/plain"),)


def test_requests_differ_by_method_target_and_body() -> None:
    digests = {digest_of(*of) for of in (
        ("POST", "/a", b"b"), ("PUT", "/a", b"b"), ("POST", "/ab", b""), ("POST", "/a", b"c"),
    )}  # fmt: skip
    assert len(digests) == 4
