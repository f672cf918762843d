"""Who may use a route, how often, and from which web pages: part of a route's spec.

A spec can be read by many, so it holds nothing that lets anyone in: of an API
key the digest, of a token's issuer the public keys.
"""

from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from schemas.names import Name, Sha256, sha256_hex

API_KEY_PREFIX: Final = "wfk_"
"""Every API key begins so, for those who look for leaked ones."""

MAX_KEYS: Final = 1000

HeaderName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$(?!\n)")]

Origin = Annotated[str, Meta(max_length=255)]

_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "k", "oth"})
"""Members of a JSON Web Key that are secret (RFC 7518, section 6)."""


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One client's key, known by its digest. Keys are random, so no salt is needed."""

    client: Name
    """What the key's owner is called in metrics, and to the function."""
    sha256: Sha256


class ApiKeys(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="api-key"
):
    """The request carries one of these keys in a header, which the function does not see."""

    keys: Annotated[tuple[ApiKey, ...], Meta(min_length=1, max_length=MAX_KEYS)]
    header: HeaderName = "x-api-key"

    def __post_init__(self) -> None:
        """Refuse one key for two clients: whose request would it be?"""
        digests = [key.sha256 for key in self.keys]
        if len(set(digests)) != len(digests):
            raise ValueError("one key is given to two clients; make one for each")


class Jwt(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="jwt"):
    """The request carries a JSON Web Token as `Authorization: Bearer …` (RFC 6750, RFC 7519)."""

    issuer: Annotated[str, Meta(min_length=1, max_length=1024)]
    """Its `iss`, exactly."""
    audience: Annotated[str, Meta(min_length=1, max_length=1024)]
    """Must be in its `aud`."""
    scopes: Annotated[tuple[str, ...], Meta(max_length=64)] = ()
    """All must be in its `scope` (or `scp`)."""
    keys: Annotated[tuple[dict[str, str | list[str]], ...], Meta(max_length=64)] = ()
    """The issuer's public keys, as JSON Web Keys (RFC 7517)."""
    keys_url: Annotated[str, Meta(max_length=1024)] | None = None
    """Where the issuer publishes them. Routers fetch from origins that their operator allows."""
    leeway_s: Annotated[float, Meta(ge=0, le=300)] = 30.0
    """How far the issuer's clock may be off."""

    def __post_init__(self) -> None:
        """Refuse what can never let anyone in, and keys that should not be here."""
        if bool(self.keys) == (self.keys_url is not None):
            raise ValueError("give either `keys` or `keys_url`")
        if self.keys_url is not None and not _is_https(self.keys_url):
            raise ValueError(f"`keys_url` {self.keys_url!r} must be an https:// URL without a user")
        for key in self.keys:
            if private := sorted(_PRIVATE & key.keys()):
                raise ValueError(
                    f"a key holds its private part ({private[0]!r}); publish the public key only,"
                    " and replace this one: it has been seen"
                )


class Cors(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which web pages' scripts may use the route (Fetch standard, CORS protocol)."""

    origins: Annotated[tuple[Origin, ...], Meta(min_length=1, max_length=100)]
    """Such as `https://shop.example`; `*` is any, without credentials."""
    headers: Annotated[tuple[HeaderName, ...], Meta(max_length=64)] = (
        "authorization",
        "content-type",
    )
    """Request headers that a script may set."""
    expose: Annotated[tuple[HeaderName, ...], Meta(max_length=64)] = ()
    """Response headers that a script may read."""
    credentials: bool = False
    """Whether a browser may send cookies along."""
    max_age_s: Annotated[int, Meta(ge=0, le=86400)] = 600

    def __post_init__(self) -> None:
        """Refuse origins that no browser would send, and the combination that opens everything."""
        if self.credentials and "*" in self.origins:
            raise ValueError("`credentials` for every origin (`*`) opens the route to any page")
        for origin in self.origins:
            if origin != "*" and not _is_origin(origin):
                raise ValueError(
                    f"{origin!r} is no origin; write scheme://host or scheme://host:port"
                )


class RateLimit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many requests are taken; more are answered 429. Each router counts for itself."""

    requests_per_s: Annotated[float, Meta(gt=0, le=1_000_000)]
    burst: Annotated[int, Meta(ge=1, le=1_000_000)] = 10
    """How many may come at once after a pause."""
    per: Literal["route", "client", "address"] = "route"
    """Counted together, for each authenticated client, or for each client address."""


def digest_of(key: str) -> str:
    """Return what a spec says of the API key `key`."""
    return sha256_hex(key.encode())


def _is_https(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" and bool(parts.hostname) and "@" not in parts.netloc


def _is_origin(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    return (
        parts.scheme in ("http", "https")
        and bool(parts.hostname)
        and "@" not in parts.netloc
        and text == f"{parts.scheme}://{parts.netloc}"
        and text == text.lower()
    )
