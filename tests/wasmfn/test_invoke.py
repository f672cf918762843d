"""A call is waited for as long as its function may take, and says who calls where that is asked."""

from datetime import UTC, datetime

import pytest

from schemas.access import ApiKey, ApiKeys, Jwt
from schemas.specs import FunctionSpec, Limits, Module, RouteSpec
from wasmfn.invoke import credentials, patience_s
from wasmfn.objects import Key, Object


def test_a_call_is_waited_for_longer_than_its_function_may_take() -> None:
    spec = FunctionSpec(
        module=Module(sha256="0" * 64, file_name="f.wasm"), limits=Limits(timeout_s=900.0)
    )
    found = Object(
        key=Key("function", "default", "f"), revision=1, published_at=datetime.now(UTC), spec=spec
    )
    assert patience_s(found) > 900.0


API_KEYS = ApiKeys(keys=(ApiKey(client="ann", sha256="0" * 64),), header="x-shop-key")
JWT = Jwt(issuer="https://login.example", audience="shop", keys_url="https://login.example/keys")


@pytest.mark.parametrize(
    ("asked", "sent"),
    [(None, {}), (API_KEYS, {"x-shop-key": "key"}), (JWT, {"authorization": "Bearer token"})],
)
def test_a_route_gets_what_it_asks_for_and_no_other_secret(
    asked: ApiKeys | Jwt | None, sent: dict[str, str]
) -> None:
    route = RouteSpec(function="shop", path="/shop", authentication=asked)
    secrets = {"WASMFN_API_KEY": "key\n", "WASMFN_TOKEN": "token"}
    assert credentials(route, secrets) == sent
    assert credentials(route, {}) == {}
