"""Issuers' keys: fetched where it is allowed, once for many, and kept while the issuer is away."""

import asyncio
from collections.abc import Callable

import httpx
import msgspec
import pytest

from services.router.access import keysets
from services.router.access.keysets import KeySets, KeysUnavailable
from tests.services.router.access.issuer import Issuer

URL = "https://login.example/keys"
ONE = Issuer()


class Publisher(httpx.AsyncBaseTransport):
    """The issuer's web server. It stands in for TLS only, which has no name to speak for here."""

    def __init__(self, answer: Callable[[], httpx.Response]) -> None:
        self.answer = answer
        self.asked = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        return self.answer()


def published(*issuers: Issuer) -> httpx.Response:
    body = msgspec.json.encode({"keys": [issuer.public for issuer in issuers], "extra": 1})
    return httpx.Response(200, content=body)


async def ids(sets: KeySets) -> list[str]:
    return [key.id for key in await sets.refresh(URL)]


async def test_requests_that_come_at_once_share_one_fetch() -> None:
    publisher = Publisher(lambda: published(ONE))
    sets = KeySets(("https://login.example",), publisher)
    assert sets.keys_at(URL) is None
    assert await asyncio.gather(*(ids(sets) for _ in range(50))) == [["one"]] * 50
    assert publisher.asked == 1
    assert sets.keys_at(URL) is not None
    await sets.close()


async def test_tokens_that_name_unknown_keys_do_not_make_us_hammer_the_issuer() -> None:
    publisher = Publisher(lambda: published(ONE))
    sets = KeySets(("https://login.example",), publisher)
    for _ in range(100):
        await ids(sets)
    assert publisher.asked == 1
    await sets.close()


async def test_a_new_key_is_found_and_an_issuer_that_is_away_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keysets, "AGAIN_S", 0.0)
    publisher = Publisher(lambda: published(ONE))
    sets = KeySets(("https://login.example",), publisher)
    assert await ids(sets) == ["one"]
    publisher.answer = lambda: published(ONE, Issuer("ES256", "two"))
    assert await ids(sets) == ["one", "two"]
    publisher.answer = lambda: httpx.Response(500)
    assert await ids(sets) == ["one", "two"]
    await sets.close()


@pytest.mark.parametrize(
    "answer",
    [
        lambda: httpx.Response(404),
        lambda: httpx.Response(302, headers={"location": "http://169.254.169.254/"}),
        lambda: httpx.Response(200, content=b"<html>"),
        lambda: httpx.Response(200, content=b'{"keys": 1}'),
        lambda: httpx.Response(200, content=b" " * 300_000),
    ],
)
async def test_what_is_no_set_of_keys_is_none(answer: Callable[[], httpx.Response]) -> None:
    publisher = Publisher(answer)
    sets = KeySets(("https://login.example",), publisher)
    with pytest.raises(KeysUnavailable):
        await sets.refresh(URL)
    assert publisher.asked == 1
    await sets.close()


@pytest.mark.parametrize(
    "url",
    [
        "https://169.254.169.254/latest", "http://login.example/keys", "https://login.example:8443/",
        "https://login.example.evil.example/", "https://login.example@evil.example/",
    ],
)  # fmt: skip
async def test_nothing_is_fetched_from_where_the_operator_did_not_allow(url: str) -> None:
    publisher = Publisher(lambda: published(ONE))
    sets = KeySets(("https://login.example",), publisher)
    with pytest.raises(KeysUnavailable, match="may not fetch"):
        await sets.refresh(url)
    assert publisher.asked == 0
    await sets.close()
