"""Whether a JSON Web Token lets its bearer in (RFC 7519, RFC 8725).

Signatures and claims are PyJWT's business. What is decided here is what it is
asked: asymmetric algorithms only, the one that the key is for and not the one
that the token names, and an expiry, an issuer and an audience always.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import jwt
import msgspec

from schemas.access import Jwt

ALGORITHMS: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
"""With a public key nobody can make a token. `none` and shared secrets are not among them."""
MAX_KEYS: Final = 64
_MIN_RSA_BITS: Final = 2048
_REQUIRED: Final = ["exp", "iss", "aud"]


class Key(msgspec.Struct, frozen=True):
    """One public key of an issuer."""

    id: str
    """Its `kid`, or empty."""
    algorithm: str
    key: Any
    """What PyJWT verifies with."""


class Bearer(msgspec.Struct, frozen=True):
    """Who a good token speaks for."""

    subject: str
    """Its `sub`, or empty."""


class Bad(msgspec.Struct, frozen=True):
    """A token that lets nobody in."""

    why: str
    """In words, for its bearer."""
    lacks_scope: bool = False
    """It is a good token of someone who may do less."""


class UnknownKey(msgspec.Struct, frozen=True):
    """It names a key that is not among ours; the issuer may have a new one."""


def read_keys(keys: Iterable[object]) -> tuple[Key, ...]:
    """Return the usable ones among JSON Web Keys: those to verify with, in algorithms we take."""
    usable = []
    for key in list(keys)[:MAX_KEYS]:
        if not isinstance(key, dict) or key.get("use", "sig") != "sig":
            continue
        try:
            read = jwt.PyJWK(key)
        except (jwt.PyJWTError, ValueError, TypeError):
            continue
        if read.algorithm_name not in ALGORITHMS:
            continue
        if read.key_type == "RSA" and read.key.key_size < _MIN_RSA_BITS:
            continue
        usable.append(Key(str(key.get("kid", "")), read.algorithm_name, read.key))
    return tuple(usable)


def check(token: str, keys: Sequence[Key], wanted: Jwt) -> Bearer | Bad | UnknownKey:
    """Return whom `token` speaks for, if one of `keys` signed it and it is what is `wanted`."""
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError:
        return Bad("it is no JSON Web Token")
    algorithm, named = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        return Bad("its algorithm is not taken here; sign it with RS256, PS256, ES256 or EdDSA")
    mine = [key for key in keys if key.algorithm == algorithm and named in (None, key.id)]
    if not mine:
        return UnknownKey()
    why = "its signature is wrong"
    for key in mine:
        try:
            claims = jwt.decode(
                token, key.key, [key.algorithm], audience=wanted.audience, issuer=wanted.issuer,
                leeway=wanted.leeway_s, options={"require": _REQUIRED},
            )  # fmt: skip
        except jwt.InvalidSignatureError:
            continue
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
            why = _why(error)
            break
        missing = sorted(set(wanted.scopes) - _scopes(claims))
        if missing:
            return Bad(f"it lacks the scope {missing[0]!r}", lacks_scope=True)
        subject = claims.get("sub")
        return Bearer(subject if isinstance(subject, str) else "")
    return Bad(why)


def _why(error: Exception) -> str:
    match error:
        case jwt.ExpiredSignatureError():
            return "it has expired; get a new one"
        case jwt.ImmatureSignatureError():
            return "it is not valid yet; check the clocks"
        case jwt.InvalidAudienceError():
            return "it is for another audience"
        case jwt.InvalidIssuerError():
            return "it is of another issuer"
        case jwt.MissingRequiredClaimError():
            return f"it has no `{error.claim}`"
    return "it cannot be read"


def _scopes(claims: Mapping[str, Any]) -> set[str]:
    """Return the token's scopes (RFC 8693, section 4.2; `scp` is what Entra and Okta write)."""
    scopes: set[str] = set()
    for name in ("scope", "scp"):
        value = claims.get(name)
        if isinstance(value, str):
            scopes.update(value.split())
        elif isinstance(value, list):
            scopes.update(item for item in value if isinstance(item, str))
    return scopes
