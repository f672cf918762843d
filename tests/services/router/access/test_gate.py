"""What a route asks of a request, question by question."""

import json
from typing import Any

from schemas.access import digest_of
from schemas.specs import RouteSpec, decode_spec
from services.router.access.gate import Admitted, Answered, Denied, Gate, KeysWanted, gate_of
from services.router.access.tokens import read_keys
from tests.services.router.access.issuer import AUDIENCE, ISSUER, Issuer

ONE = Issuer()
JWT = {"type": "jwt", "issuer": ISSUER, "audience": AUDIENCE}
KEYS = {"type": "api-key", "keys": [{"client": "ann", "sha256": digest_of("wfk_a")}]}
URL = "https://login.example/keys"


def spec(**fields: Any) -> RouteSpec:
    decoded = decode_spec("route", json.dumps({"function": "f", "path": "/f", **fields}).encode())
    assert isinstance(decoded, RouteSpec)
    return decoded


def gate(**fields: Any) -> Gate:
    made = gate_of(spec(**fields))
    assert made is not None
    return made


def ask(
    of: Gate, *headers: tuple[bytes, bytes], method: str = "POST", address: str = "10.0.0.1",
    now: float = 0.0, published: Any = None,
) -> Admitted | Answered | Denied | KeysWanted:  # fmt: skip
    return of.admit(method, headers, address, now, lambda url: published)


def bearer(token: str) -> tuple[bytes, bytes]:
    return (b"authorization", b"Bearer " + token.encode())


def test_a_route_that_asks_nothing_has_no_gate() -> None:
    assert gate_of(spec()) is None


def test_a_key_says_whose_request_it_is() -> None:
    asked = gate(authentication=KEYS)
    assert ask(asked, (b"x-api-key", b"wfk_a")) == Admitted("ann")
    assert asked.secret_header == b"x-api-key"


def test_a_wrong_a_missing_and_a_second_key_are_401() -> None:
    asked = gate(authentication=KEYS)
    for headers in ([], [(b"x-api-key", b"wfk_b")], [(b"x-api-key", b"wfk_a")] * 2):
        found = ask(asked, *headers)
        assert isinstance(found, Denied)
        assert (found.status, found.challenge) == (401, "ApiKey")


def test_no_answer_says_what_was_sent() -> None:
    found = ask(gate(authentication=KEYS), (b"x-api-key", b"wfk_mine"))
    assert isinstance(found, Denied)
    assert "wfk_mine" not in found.detail + found.challenge


def test_a_token_says_whose_request_it_is() -> None:
    asked = gate(authentication={**JWT, "keys": [ONE.public]})
    assert ask(asked, bearer(ONE.token())) == Admitted("ann")
    assert asked.secret_header == b""


def test_without_a_good_token_it_is_401_with_a_challenge() -> None:
    asked = gate(authentication={**JWT, "keys": [ONE.public]})
    for headers in (
        [], [(b"authorization", b"Basic YTpi")], [bearer("x")], [bearer(ONE.token())] * 2,
        [bearer(Issuer("EdDSA", "two").token())], [bearer(ONE.token(aud="other"))],
    ):  # fmt: skip
        found = ask(asked, *headers)
        assert isinstance(found, Denied)
        assert found.status == 401
        assert found.challenge.startswith("Bearer")


def test_a_token_of_someone_who_may_do_less_is_403() -> None:
    asked = gate(authentication={**JWT, "keys": [ONE.public], "scopes": ["admin"]})
    found = ask(asked, bearer(ONE.token()))
    assert isinstance(found, Denied)
    assert found.status == 403
    assert 'scope="admin"' in found.challenge


def test_keys_that_were_never_read_and_keys_that_are_new_are_asked_for() -> None:
    asked = gate(authentication={**JWT, "keys_url": URL})
    token = bearer(ONE.token())
    assert ask(asked, token) == KeysWanted(URL)
    assert ask(asked, token, published=()) == KeysWanted(URL)
    assert ask(asked, token, published=read_keys([ONE.public])) == Admitted("ann")
    assert isinstance(ask(asked), Denied)  # nobody makes us fetch without a token


def test_a_preflight_is_answered_without_a_key() -> None:
    asked = gate(authentication=KEYS, cors={"origins": ["https://shop.example"], "headers": ["a"]})
    preflight = ((b"origin", b"https://shop.example"), (b"access-control-request-method", b"POST"))
    found = ask(asked, *preflight, method="OPTIONS")
    assert isinstance(found, Answered)
    assert dict(found.headers) == {
        b"access-control-allow-origin": b"https://shop.example", b"vary": b"origin",
        b"access-control-allow-methods": b"GET, POST", b"access-control-allow-headers": b"a",
        b"access-control-max-age": b"600",
    }  # fmt: skip


def test_a_page_from_elsewhere_is_told_nothing() -> None:
    asked = gate(cors={"origins": ["https://shop.example"]})
    preflight = ((b"origin", b"https://evil.example"), (b"access-control-request-method", b"GET"))
    found = ask(asked, *preflight, method="OPTIONS")
    assert found == Answered(((b"vary", b"origin"),))
    answer: list[tuple[bytes, bytes]] = []
    asked.dress([(b"origin", b"https://evil.example")], answer)
    assert answer == [(b"vary", b"origin")]


def test_the_route_and_not_the_function_says_who_may_read_an_answer() -> None:
    asked = gate(cors={"origins": ["https://a.example"], "credentials": True, "expose": ["x-y"]})
    answer = [(b"access-control-allow-origin", b"*"), (b"x", b"1")]
    asked.dress([(b"origin", b"https://a.example")], answer)
    assert answer == [
        (b"x", b"1"),
        (b"access-control-allow-origin", b"https://a.example"),
        (b"vary", b"origin"),
        (b"access-control-allow-credentials", b"true"),
        (b"access-control-expose-headers", b"x-y"),
    ]


def test_a_function_that_answers_options_itself_gets_what_is_no_preflight() -> None:
    asked = gate(cors={"origins": ["*"]})
    assert ask(asked, (b"origin", b"https://a.example"), method="OPTIONS") == Admitted("")


def test_too_many_requests_are_429_and_told_when_to_come_back() -> None:
    asked = gate(rate_limit={"requests_per_s": 2, "burst": 1})
    assert ask(asked) == Admitted("")
    found = ask(asked, address="10.0.0.2")
    assert isinstance(found, Denied)
    assert (found.status, found.retry_after_s) == (429, 0.5)
    assert ask(asked, now=0.5) == Admitted("")


def test_addresses_are_counted_apart_and_before_anything_is_checked() -> None:
    asked = gate(authentication=KEYS,
                 rate_limit={"requests_per_s": 1, "burst": 1, "per": "address"})  # fmt: skip
    assert isinstance(ask(asked), Denied)
    found = ask(asked, (b"x-api-key", b"wfk_a"))
    assert isinstance(found, Denied)
    assert found.status == 429
    assert ask(asked, (b"x-api-key", b"wfk_a"), address="10.0.0.2") == Admitted("ann")


def test_strangers_do_not_use_up_what_clients_may_send() -> None:
    for per in ("client", "route"):
        asked = gate(authentication=KEYS, rate_limit={"requests_per_s": 1, "burst": 1, "per": per})
        for _ in range(9):
            found = ask(asked, (b"x-api-key", b"wrong"))
            assert isinstance(found, Denied)
            assert found.status == 401
        assert ask(asked, (b"x-api-key", b"wfk_a")) == Admitted("ann")
        found = ask(asked, (b"x-api-key", b"wfk_a"))
        assert isinstance(found, Denied)
        assert found.status == 429
