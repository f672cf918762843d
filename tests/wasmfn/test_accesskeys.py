"""API keys of a route: given and taken back without touching anything else of it."""

import pytest

from schemas.access import ApiKey, ApiKeys, Cors, Jwt, digest_of
from schemas.specs import RouteSpec
from wasmfn.accesskeys import with_key, without_client
from wasmfn.errors import ConflictError, MissingError

OPEN = RouteSpec("f", path="/f", cors=Cors(("*",)))
ANN, BOB = (ApiKey(name, digest_of(name)) for name in ("ann", "bob"))


def clients(route: RouteSpec) -> list[str]:
    assert isinstance(route.authentication, ApiKeys)
    return [key.client for key in route.authentication.keys]


def test_the_first_key_closes_the_route_and_others_follow() -> None:
    route = with_key(with_key(OPEN, ANN), BOB)
    assert clients(route) == ["ann", "bob"]
    assert route.cors == OPEN.cors


def test_all_keys_of_a_client_are_taken_back() -> None:
    second = ApiKey("ann", digest_of("another"))
    route = with_key(with_key(with_key(OPEN, ANN), BOB), second)
    assert clients(without_client(route, "ann")) == ["bob"]


def test_taking_back_the_last_key_does_not_open_the_route() -> None:
    with pytest.raises(ConflictError, match="nobody could use the route"):
        without_client(with_key(OPEN, ANN), "ann")


def test_who_has_no_key_loses_none() -> None:
    for route in (OPEN, with_key(OPEN, ANN)):
        with pytest.raises(MissingError):
            without_client(route, "bob")


def test_a_route_that_asks_for_tokens_gets_no_keys() -> None:
    tokens = RouteSpec("f", path="/f", authentication=Jwt("i", "a", keys=({"kty": "OKP"},)))
    with pytest.raises(ConflictError, match="tokens"):
        with_key(tokens, ANN)
