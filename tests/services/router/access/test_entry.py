"""Access rules on a real data port: what a client, a browser and the function see of them."""

import json
from typing import Any

import httpx
import pytest

from schemas.access import digest_of
from schemas.active import ActiveRoute
from schemas.specs import RouteSpec, decode_spec
from services.router.access.entry import client_address
from services.router.access.keysets import KeySets
from services.router.table import compact
from tests.services.router.access.issuer import AUDIENCE, ISSUER, Issuer
from tests.services.router.clients import Response
from tests.services.router.gate import Gate

ONE = Issuer()
KEYS = {"type": "api-key", "keys": [{"client": "ann", "sha256": digest_of("wfk_a")}]}
JWT = {"type": "jwt", "issuer": ISSUER, "audience": AUDIENCE}
PREFLIGHT = {"origin": "https://shop.example", "access-control-request-method": "POST"}


def guard(gate: Gate, **rules: Any) -> None:
    """Put a route of the function at /g that asks what `rules` say."""
    fields = {"function": "f", "path": "/g", "methods": ["GET", "POST"], **rules}
    spec = decode_spec("route", json.dumps(fields).encode())
    assert isinstance(spec, RouteSpec)
    gate.state.put_route(compact(ActiveRoute("default", "guarded", 1, spec)))


def titled(response: Response) -> tuple[int, str]:
    return response.status, json.loads(response.body)["detail"]


async def test_a_client_with_a_key_gets_in_and_the_function_sees_its_name_and_not_its_key(
    gate: Gate,
) -> None:
    guard(gate, authentication=KEYS)
    instance = await gate.instance()
    sent = {"x-api-key": "wfk_a", "x-wasmfn-client": "evil"}
    assert (await gate.request("POST", "/g", b"x", sent)).status == 200
    call = instance.calls[0]
    assert call.header["x-wasmfn-client"] == "ann"
    assert "x-api-key" not in call.header
    assert [value for name, value in call.headers if name == "x-wasmfn-client"] == ["ann"]


async def test_a_client_without_a_key_reaches_nothing(gate: Gate) -> None:
    guard(gate, authentication=KEYS)
    instance = await gate.instance()
    for headers in ({}, {"x-api-key": "wfk_b"}, {"x-api-key": ""}):
        response = await gate.request("POST", "/g", b"x", headers)
        assert response.status == 401
        assert response.headers["www-authenticate"] == "ApiKey"
    assert instance.calls == []


async def test_a_head_that_was_served_before_the_route_asked_for_keys_is_asked_too(
    gate: Gate,
) -> None:
    gate.route("f", "/g")
    await gate.instance()
    for _ in range(3):
        assert (await gate.request("POST", "/g", b"x")).status == 200
    gate.state.remove_route(("default", "f/g"))
    guard(gate, authentication=KEYS)
    for _ in range(3):
        assert (await gate.request("POST", "/g", b"x")).status == 401


async def test_a_request_that_nobody_waits_for_is_asked_for_its_key_too(gate: Gate) -> None:
    guard(gate, authentication=KEYS)
    response = await gate.request("POST", "/g", b"x", {"prefer": "respond-async"})
    assert response.status == 401


async def test_a_bearer_of_a_token_gets_in(gate: Gate) -> None:
    guard(gate, authentication={**JWT, "keys": [ONE.public]})
    instance = await gate.instance()
    good = {"authorization": f"Bearer {ONE.token()}"}
    assert (await gate.request("POST", "/g", b"x", good)).status == 200
    assert instance.calls[0].header["x-wasmfn-client"] == "ann"
    assert instance.calls[0].header["authorization"] == good["authorization"]
    response = await gate.request("POST", "/g", b"x", {"authorization": "Bearer x"})
    assert response.status == 401
    assert "invalid_token" in response.headers["www-authenticate"]


async def test_keys_are_fetched_once_and_a_stranger_costs_no_fetch(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(200, json={"keys": [ONE.public]})

    keysets = KeySets(("https://login.example",), httpx.MockTransport(answer))
    monkeypatch.setattr(gate.app._entry, "_keysets", keysets)
    guard(gate, authentication={**JWT, "keys_url": "https://login.example/keys"})
    await gate.instance()
    assert (await gate.request("POST", "/g", b"x")).status == 401
    assert asked == []
    for _ in range(3):
        good = {"authorization": f"Bearer {ONE.token()}"}
        assert (await gate.request("POST", "/g", b"x", good)).status == 200
    other = {"authorization": f"Bearer {Issuer('EdDSA', 'two').token()}"}
    assert (await gate.request("POST", "/g", b"x", other)).status == 401
    assert len(asked) == 1
    await keysets.close()


async def test_where_keys_may_not_be_fetched_nobody_gets_in_and_nothing_is_fetched(
    gate: Gate,
) -> None:
    guard(gate, authentication={**JWT, "keys_url": "https://login.example/keys"})
    good = {"authorization": f"Bearer {ONE.token()}"}
    response = await gate.request("POST", "/g", b"x", good)
    assert response.status == 503
    assert "retry-after" in response.headers
    await gate.app._entry.close()


async def test_a_browser_is_told_what_its_page_may_do(gate: Gate) -> None:
    guard(gate, authentication=KEYS, cors={"origins": ["https://shop.example"]})
    instance = await gate.instance()
    response = await gate.request("OPTIONS", "/g", None, PREFLIGHT)
    assert (response.status, response.body) == (200, b"")
    assert response.headers["access-control-allow-origin"] == "https://shop.example"
    assert response.headers["access-control-allow-methods"] == "GET, POST"
    assert instance.calls == []


async def test_every_answer_tells_the_browser_who_may_read_it_refusals_too(gate: Gate) -> None:
    guard(gate, authentication=KEYS, cors={"origins": ["https://shop.example"]})
    await gate.instance()
    page = {"origin": "https://shop.example"}
    for headers, status in (({**page, "x-api-key": "wfk_a"}, 200), (page, 401)):
        response = await gate.request("POST", "/g", b"x", headers)
        assert response.status == status
        assert response.headers["access-control-allow-origin"] == "https://shop.example"


async def test_a_preflight_for_what_no_route_takes_is_405_as_ever(gate: Gate) -> None:
    guard(gate, cors={"origins": ["*"]})
    asking = {**PREFLIGHT, "access-control-request-method": "DELETE"}
    assert (await gate.request("OPTIONS", "/g", None, asking)).status == 405
    assert (await gate.request("OPTIONS", "/f", None, PREFLIGHT)).status == 405


async def test_who_comes_too_often_is_told_when_to_come_again(gate: Gate) -> None:
    guard(gate, rate_limit={"requests_per_s": 0.001, "burst": 2})
    await gate.instance()
    statuses = [(await gate.request("POST", "/g", b"x")).status for _ in range(3)]
    assert statuses == [200, 200, 429]
    response = await gate.request("POST", "/g", b"x")
    assert titled(response) == (429, "too many requests; send them more slowly")
    assert int(response.headers["retry-after"]) > 1


async def test_a_route_may_take_smaller_bodies_than_its_function(gate: Gate) -> None:
    guard(gate, body_bytes=10)
    await gate.instance()
    assert (await gate.request("POST", "/g", b"x" * 10)).status == 200
    assert (await gate.request("POST", "/g", b"x" * 11)).status == 413
    assert (await gate.request("POST", "/f", b"x" * 11)).status == 200


@pytest.mark.parametrize(
    ("forwarded", "trusted", "address"),
    [
        ([], True, "10.0.0.1"),
        ([b"1.2.3.4"], True, "1.2.3.4"),
        ([b"evil, 1.2.3.4"], True, "1.2.3.4"),
        ([b"evil", b"1.2.3.4"], True, "1.2.3.4"),
        ([b"1.2.3.4"], False, "10.0.0.1"),
        ([b""], True, "10.0.0.1"),
    ],
)
def test_an_address_is_believed_of_a_trusted_proxy_only(
    forwarded: list[bytes], trusted: bool, address: str
) -> None:
    headers = [(b"x-forwarded-for", value) for value in forwarded]
    assert client_address("10.0.0.1", headers, trusted=trusted) == address
