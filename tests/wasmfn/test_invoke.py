"""A call is waited for as long as its function may take, and says who calls where that is asked."""

import http.server
import threading
from datetime import UTC, datetime

import pytest

from schemas.access import ApiKey, ApiKeys, Jwt
from schemas.specs import FunctionSpec, Limits, Module, RouteSpec
from wasmfn.errors import RejectedError
from wasmfn.invoke import call, credentials, patience_s
from wasmfn.objects import Key, Object


@pytest.mark.parametrize("timeout_s", [0.1, 900.0])
def test_a_call_is_waited_for_longer_than_a_cold_start_and_its_run_may_take(
    timeout_s: float,
) -> None:
    spec = FunctionSpec(
        module=Module(sha256="0" * 64, file_name="f.wasm"), limits=Limits(timeout_s=timeout_s)
    )
    found = Object(
        key=Key("function", "default", "f"), revision=1, published_at=datetime.now(UTC), spec=spec
    )
    assert patience_s(found) > timeout_s + 90.0


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


@pytest.mark.parametrize("secret", ["wfk_one\nwfk_two", "wfk_one\rx", "wfk_€", "wfk_\x00one"])
@pytest.mark.parametrize(
    ("variable", "asked"), [("WASMFN_API_KEY", API_KEYS), ("WASMFN_TOKEN", JWT)]
)
def test_a_secret_that_no_header_can_carry_is_refused_and_not_shown(
    variable: str, asked: ApiKeys | Jwt, secret: str
) -> None:
    route = RouteSpec(function="shop", path="/shop", authentication=asked)
    with pytest.raises(RejectedError, match=variable) as refused:
        credentials(route, {variable: secret})
    assert "wfk_" not in str(refused.value)
    assert refused.value.__context__ is None


def test_a_path_that_is_not_ascii_is_called_in_its_encoded_form() -> None:
    paths: list[str] = []

    class Router(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            paths.append(self.path)
            self.send_error(404)

    with http.server.HTTPServer(("127.0.0.1", 0), Router) as router:
        answering = threading.Thread(target=router.handle_request)
        answering.start()
        route = RouteSpec(function="shop", path="/käse")
        url = f"http://127.0.0.1:{router.server_port}"
        assert call(url, route, b"", "text/plain").status == 404
        answering.join()
    assert paths == ["/k%C3%A4se"]
