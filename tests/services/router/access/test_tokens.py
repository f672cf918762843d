"""Tokens: the good ones get in, and everything that was ever used against a verifier does not."""

import base64
import hashlib
import hmac
import json
import time

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.access import Jwt
from services.router.access.tokens import MAX_KEYS, Bad, Bearer, UnknownKey, check, read_keys
from tests.services.router.access.issuer import AUDIENCE, ISSUER, Issuer

WANTED = Jwt(ISSUER, AUDIENCE, keys=({},), leeway_s=30.0)
ISSUERS = {name: Issuer(name) for name in ("RS256", "PS256", "ES256", "ES384", "EdDSA")}
ONE = ISSUERS["EdDSA"]
KEYS = read_keys([ONE.public])


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@pytest.mark.parametrize("algorithm", ISSUERS)
def test_a_good_token_speaks_for_its_subject(algorithm: str) -> None:
    issuer = ISSUERS[algorithm]
    assert check(issuer.token(), read_keys([issuer.public]), WANTED) == Bearer("ann")


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"exp": int(time.time()) - 60}, "expired"),
        ({"exp": None}, "no `exp`"),
        ({"nbf": int(time.time()) + 600}, "not valid yet"),
        ({"aud": "another"}, "another audience"),
        ({"aud": None}, "no `aud`"),
        ({"iss": "https://evil.example"}, "another issuer"),
        ({"iss": None}, "no `iss`"),
        ({"exp": "soon"}, "cannot be read"),
        ({"aud": {"shop": 1}}, ""),
    ],
)
def test_a_token_that_is_not_for_us_now_is_refused_with_the_reason(
    claims: dict[str, object], why: str
) -> None:
    found = check(ONE.token(**claims), KEYS, WANTED)
    assert isinstance(found, Bad)
    assert why in found.why
    assert not found.lacks_scope


def test_an_audience_among_several_is_enough() -> None:
    assert check(ONE.token(aud=["other", AUDIENCE]), KEYS, WANTED) == Bearer("ann")


def test_a_clock_that_is_a_little_off_is_forgiven() -> None:
    assert check(ONE.token(exp=int(time.time()) - 10), KEYS, WANTED) == Bearer("ann")


@pytest.mark.parametrize("name", ["scope", "scp"])
def test_every_scope_is_needed(name: str) -> None:
    wanted = Jwt(ISSUER, AUDIENCE, scopes=("read", "sell"), keys=({},))
    assert check(ONE.token(**{"scope": None, name: "sell read"}), KEYS, wanted) == Bearer("ann")
    assert check(ONE.token(**{"scope": None, name: ["sell", "read"]}), KEYS, wanted) == Bearer(
        "ann"
    )
    found = check(ONE.token(**{"scope": None, name: "read"}), KEYS, wanted)
    assert found == Bad("it lacks the scope 'sell'", lacks_scope=True)


def test_no_signature_is_no_token() -> None:
    claims = jwt.decode(ONE.token(), options={"verify_signature": False})
    for algorithm in ("none", "None", "NONE", "nOnE"):
        token = f"{part({'alg': algorithm, 'kid': 'one'})}.{part(claims)}."
        assert isinstance(check(token, KEYS, WANTED), Bad)


def test_a_public_key_is_no_shared_secret() -> None:
    # The old confusion: HMAC with the text of the public key, which everybody has.
    claims = jwt.decode(ONE.token(), options={"verify_signature": False})
    signed = f"{part({'alg': 'HS256', 'kid': 'one'})}.{part(claims)}"
    for secret in (json.dumps(ONE.public), ONE.public["x"]):
        digest = hmac.new(secret.encode(), signed.encode(), hashlib.sha256).digest()
        token = f"{signed}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"
        assert isinstance(check(token, KEYS, WANTED), Bad)


def test_a_key_that_the_token_brings_along_is_not_believed() -> None:
    evil = Issuer("EdDSA", "one")
    for header in ({"jwk": evil.public}, {"jku": "https://evil.example/keys"}, {"x5u": "x"}):
        found = check(evil.token(header=header), KEYS, WANTED)
        assert found == Bad("its signature is wrong")


def test_a_key_is_used_with_its_own_algorithm_only() -> None:
    rsa = ISSUERS["RS256"]
    keys = read_keys([{**rsa.public, "alg": "PS256"}])
    assert check(rsa.token(), keys, WANTED) == UnknownKey()


def test_a_key_that_we_do_not_have_is_told_from_a_wrong_signature() -> None:
    assert check(Issuer("EdDSA", "two").token(), KEYS, WANTED) == UnknownKey()
    assert check(Issuer("EdDSA", "one").token(), KEYS, WANTED) == Bad("its signature is wrong")
    assert check(ONE.token(), (), WANTED) == UnknownKey()


def test_of_many_keys_the_right_one_is_found() -> None:
    many = [Issuer("EdDSA", f"key {n}") for n in range(5)]
    keys = read_keys([issuer.public for issuer in many])
    assert all(check(issuer.token(), keys, WANTED) == Bearer("ann") for issuer in many)


def test_keys_that_are_no_use_are_left_out() -> None:
    weak = {"kty": "RSA", "n": base64.urlsafe_b64encode(b"\xff" * 128).decode(), "e": "AQAB"}
    odd: list[object] = [
        None, 1, "x", {}, {"kty": "oct", "k": "c2VjcmV0"}, {"kty": "RSA"}, weak,
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}, {**ONE.public, "use": "enc"},
    ]  # fmt: skip
    assert read_keys(odd) == ()
    assert len(read_keys([ONE.public] * (MAX_KEYS + 10))) == MAX_KEYS


@given(st.one_of(st.text(max_size=300), st.binary(max_size=300).map(lambda b: b.decode("latin-1"))))
def test_any_text_is_refused_and_breaks_nothing(text: str) -> None:
    assert isinstance(check(text, KEYS, WANTED), Bad | UnknownKey)


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["EdDSA", "one"]),
    st.lists(st.integers(), max_size=2),
)


@given(
    header=st.dictionaries(st.sampled_from(["alg", "kid", "crit", "b64", "typ", "zip"]), ODD),
    claims=st.dictionaries(st.sampled_from(["exp", "iss", "aud", "nbf", "iat", "sub"]), ODD),
)
def test_no_unsigned_token_gets_in(header: dict[str, object], claims: dict[str, object]) -> None:
    token = f"{part({'alg': 'EdDSA', **header})}.{part(claims)}.{part('x')}"
    assert isinstance(check(token, KEYS, WANTED), Bad | UnknownKey)


def test_any_signed_claims_are_read_without_an_accident() -> None:
    for value in (None, True, -1, 1e300, "x", [], {}, 2**70):
        for name in ("exp", "nbf", "iat", "aud", "iss", "sub", "jti", "scope"):
            found = check(
                jwt.encode(
                    {"iss": ISSUER, "aud": AUDIENCE, "exp": int(time.time()) + 60, name: value}
                    if name not in ("iss", "sub", "jti") or isinstance(value, str)
                    else {"iss": ISSUER},
                    ONE._private, "EdDSA", {"kid": "one"},
                ),
                KEYS, WANTED,
            )  # fmt: skip
            assert isinstance(found, Bad | Bearer)
