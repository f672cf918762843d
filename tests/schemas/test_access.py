"""Access rules: what would let nobody in, or everybody, is refused with a reason."""

import json

import msgspec
import pytest

from schemas.access import ApiKeys, Cors, Jwt, digest_of
from schemas.specs import RouteSpec, decode_spec


def route(**fields: object) -> RouteSpec:
    spec = decode_spec("route", json.dumps({"function": "f", "path": "/f", **fields}).encode())
    assert isinstance(spec, RouteSpec)
    return spec


DIGEST = digest_of("wfk_secret")
PUBLIC = {"kty": "OKP", "crv": "Ed25519", "x": "abc", "kid": "1", "key_ops": ["verify"]}
JWT = {"type": "jwt", "issuer": "https://login.example", "audience": "shop"}


def test_a_route_says_who_may_use_it() -> None:
    keys = route(authentication={"type": "api-key", "keys": [{"client": "a", "sha256": DIGEST}]})
    assert isinstance(keys.authentication, ApiKeys)
    assert isinstance(route(authentication={**JWT, "keys": [PUBLIC]}).authentication, Jwt)
    assert route(cors={"origins": ["https://shop.example:8443"]}).cors == Cors(
        ("https://shop.example:8443",)
    )
    assert route().authentication is None


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"authentication": {"type": "api-key", "keys": []}}, "length >= 1"),
        ({"authentication": {"type": "basic"}}, "basic"),
        ({"authentication": {"type": "api-key", "keys": [
            {"client": "a", "sha256": DIGEST}, {"client": "b", "sha256": DIGEST}]}},
            "one key is given to two clients"),
        ({"authentication": {"type": "api-key", "keys": [{"client": "a", "sha256": "wfk_x"}]}},
            "sha256"),
        ({"authentication": JWT}, "either `keys` or `keys_url`"),
        ({"authentication": {**JWT, "keys": [PUBLIC], "keys_url": "https://x.example/k"}},
            "either `keys` or `keys_url`"),
        ({"authentication": {**JWT, "keys_url": "http://login.example/keys"}}, "https://"),
        ({"authentication": {**JWT, "keys_url": "https://u:p@login.example/keys"}}, "https://"),
        ({"authentication": {**JWT, "keys_url": "file:///etc/passwd"}}, "https://"),
        ({"authentication": {**JWT, "keys": [{**PUBLIC, "d": "secret"}]}}, "private part"),
        ({"authentication": {**JWT, "keys": [{"kty": "oct", "k": "secret"}]}}, "private part"),
        ({"cors": {"origins": ["*"], "credentials": True}}, "any page"),
        ({"cors": {"origins": ["shop.example"]}}, "is no origin"),
        ({"cors": {"origins": ["https://shop.example/"]}}, "is no origin"),
        ({"cors": {"origins": ["https://Shop.example"]}}, "is no origin"),
        ({"cors": {"origins": ["https://shop.example:x"]}}, "is no origin"),
        ({"cors": {"origins": ["https://a"], "headers": ["x\r\ny"]}}, "headers"),
        ({"rate_limit": {"requests_per_s": 0}}, "requests_per_s"),
        ({"rate_limit": {"requests_per_s": 1, "per": "client"}}, "needs `authentication`"),
    ],
)  # fmt: skip
def test_rules_that_make_no_sense_are_refused_with_a_reason(
    fields: dict[str, object], says: str
) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        route(**fields)
    assert says in str(caught.value)


def test_what_is_said_of_a_private_key_does_not_hold_it() -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        route(authentication={**JWT, "keys": [{**PUBLIC, "d": "c2VjcmV0"}]})
    assert "c2VjcmV0" not in str(caught.value)
