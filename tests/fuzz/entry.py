"""Targets: what lets a client in, or a browser read an answer."""

import base64
import hashlib
import json
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from schemas.access import ApiKey, ApiKeys, Cors, Jwt
from schemas.specs import RouteSpec
from services.router.access.gate import Admitted, Answered, Denied, Gate
from tests.fuzz.tape import Tape, headers_of

KEY: Final = b"a-key-of-ann"
_ORIGIN: Final = "https://shop.example"
_KEYS: Final = Gate(
    RouteSpec(
        function="f", prefix="/",
        authentication=ApiKeys((ApiKey("ann", hashlib.sha256(KEY).hexdigest()),)),
        cors=Cors(origins=(_ORIGIN,), headers=("content-type",), credentials=True),
    )
)  # fmt: skip


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


_SECRET: Final = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
_SIGNED: Final = ".".join(
    _base64(json.dumps(part).encode())
    for part in (
        {"alg": "EdDSA", "kid": "1"},
        {"iss": "https://login.example", "aud": "shop", "exp": 4_000_000_000, "sub": "ann"},
    )
)
TOKEN: Final = f"{_SIGNED}.{_base64(_SECRET.sign(_SIGNED.encode()))}"
_TOKENS: Final = Gate(
    RouteSpec(
        function="f", prefix="/",
        authentication=Jwt(
            issuer="https://login.example", audience="shop",
            keys=({"kty": "OKP", "crv": "Ed25519", "kid": "1", "alg": "EdDSA",
                   "x": _base64(_SECRET.public_key().public_bytes_raw())},),
        ),
    )
)  # fmt: skip


def keys(data: bytes) -> None:
    """Nobody comes in without the key, and no answer names an origin that is not allowed."""
    tape = Tape(data)
    method = tape.pick(("GET", "OPTIONS", "POST"))
    headers = headers_of(tape.text())
    found = _KEYS.admit(method, headers, "::1", 0.0, lambda url: None)
    given = [value for name, value in headers if name == b"x-api-key"]
    assert isinstance(found, Admitted | Denied | Answered)
    if isinstance(found, Admitted):
        assert given == [KEY]
        assert found.client == "ann"
    elif isinstance(found, Denied):
        assert given != [KEY]
        assert found.status == 401
    answer = [(b"access-control-allow-origin", b"*"), (b"x-mine", b"1")]
    _KEYS.dress(headers, answer)
    told = dict(answer) if not isinstance(found, Answered) else dict(found.headers)
    assert told.get(b"access-control-allow-origin", _ORIGIN.encode()) == _ORIGIN.encode()


def tokens(data: bytes) -> None:
    """Nobody comes in with a token that was not signed."""
    headers = [(b"authorization", data)]
    found = _TOKENS.admit("GET", headers, "::1", 0.0, lambda url: None)
    assert isinstance(found, Admitted | Denied), found
    if isinstance(found, Admitted):
        assert data[:7].lower() == b"bearer "
        assert data[7:].strip().rpartition(b".")[0] == _SIGNED.encode()
        assert found.client == "ann"
    else:
        assert found.status in (401, 403)
        assert found.detail.isprintable()
        assert found.challenge.isascii()
