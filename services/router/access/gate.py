"""What a route asks of a request before it costs anything.

In this order: a browser's preflight is answered, an address that asks too often
is told to wait, the client shows who it is, and then how often it came is
counted. A route that asks nothing has no gate.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from schemas.access import ApiKeys, Cors, Jwt
from schemas.specs import RouteSpec
from services.router.access import cors
from services.router.access.apikeys import by_digest, client_of
from services.router.access.rates import Rates

if TYPE_CHECKING:
    from services.router.access.tokens import Key

Headers = Sequence[tuple[bytes, bytes]]

_BEARER: Final = b"bearer "


class Admitted(msgspec.Struct, frozen=True):
    """The request may go on."""

    client: str = ""
    """Who sent it; empty on a route without authentication."""


class Answered(msgspec.Struct, frozen=True):
    """A preflight, answered here with these headers."""

    headers: tuple[tuple[bytes, bytes], ...]


class Denied(msgspec.Struct, frozen=True):
    """The request goes no further."""

    status: int
    """401, 403 or 429."""
    detail: str
    challenge: str = ""
    """`WWW-Authenticate` (RFC 9110, section 11.6.1)."""
    retry_after_s: float | None = None


class KeysWanted(msgspec.Struct, frozen=True):
    """It cannot be told before the issuer's keys are read (again): read them, and ask once more."""

    url: str


class Gate:
    """What one route asks. It holds its counters, so a route keeps its gate while it stands."""

    __slots__ = (
        "_clients", "_cors", "_header", "_jwt", "_keys", "_methods", "_per", "_rates", "body_bytes",
    )  # fmt: skip

    def __init__(self, spec: RouteSpec) -> None:
        self.body_bytes = spec.body_bytes
        """The largest request body; None leaves that to the function."""
        self._cors: Cors | None = spec.cors
        self._methods = spec.methods
        self._rates = Rates(spec.rate_limit) if spec.rate_limit is not None else None
        self._per = spec.rate_limit.per if spec.rate_limit is not None else "route"
        self._clients: dict[str, str] | None = None
        self._header = b""
        self._jwt: Jwt | None = None
        self._keys: tuple[Key, ...] | None = None
        match spec.authentication:
            case ApiKeys() as wanted:
                self._clients = by_digest(wanted.keys)
                self._header = wanted.header.encode()
            case Jwt() as wanted:
                # Imported where a route asks for tokens: it costs 30 ms and 6 MiB.
                from services.router.access.tokens import read_keys  # noqa: PLC0415

                self._jwt = wanted
                self._keys = read_keys(wanted.keys) if wanted.keys_url is None else None

    @property
    def has_cors(self) -> bool:
        """Whether it answers preflights."""
        return self._cors is not None

    @property
    def secret_header(self) -> bytes:
        """The header that the function must not see; empty if there is none."""
        return self._header

    def admit(
        self,
        method: str,
        headers: Headers,
        address: str,
        now: float,
        keys_at: Callable[[str], "tuple[Key, ...] | None"],
    ) -> Admitted | Answered | Denied | KeysWanted:
        """Decide about one request.

        Args:
            method: of the request.
            headers: names in lower case.
            address: of the client, as far as it can be believed.
            now: monotonic seconds.
            keys_at: an issuer's keys by URL, as last read; None if never.
        """
        if self._cors is not None and cors.is_preflight(method, headers):
            origin = cors.origin_of(headers) or b""
            return Answered(tuple(cors.preflight_headers(self._cors, self._methods, origin)))
        if self._rates is not None and self._per == "address":
            denied = self._count(address, now)
            if denied is not None:
                return denied
        return self._counted(self._who(headers, keys_at), now)

    def admit_token(
        self, headers: Headers, keys: "tuple[Key, ...]", now: float
    ) -> Admitted | Denied | KeysWanted:
        """Decide about a request for which `keys` were read."""
        assert self._jwt is not None  # noqa: S101 - who else would want keys
        return self._counted(self._by_token(self._jwt, headers, lambda url: keys), now)

    def dress(self, request: Headers, answer: list[tuple[bytes, bytes]]) -> None:
        """Add to the headers of an answer what the browser that asked must be told."""
        if self._cors is not None:
            answer[:] = [header for header in answer if not cors.is_ours(header[0])]
            answer += cors.answer_headers(self._cors, cors.origin_of(request))

    def _counted(
        self, who: Admitted | Denied | KeysWanted, now: float
    ) -> Admitted | Denied | KeysWanted:
        if self._rates is None or self._per == "address" or not isinstance(who, Admitted):
            return who
        return self._count(who.client if self._per == "client" else "", now) or who

    def _count(self, client: str, now: float) -> Denied | None:
        assert self._rates is not None  # noqa: S101 - asked by who has looked
        wait = self._rates.wait_s(client, now)
        if not wait:
            return None
        return Denied(429, "too many requests; send them more slowly", retry_after_s=wait)

    def _who(
        self, headers: Headers, keys_at: Callable[[str], "tuple[Key, ...] | None"]
    ) -> Admitted | Denied | KeysWanted:
        if self._clients is not None:
            return self._by_key(self._clients, headers)
        if self._jwt is not None:
            return self._by_token(self._jwt, headers, keys_at)
        return Admitted()

    def _by_key(self, clients: dict[str, str], headers: Headers) -> Admitted | Denied:
        given = [value for name, value in headers if name == self._header]
        name = self._header.decode()
        if not given:
            return Denied(401, f"send an API key in the header `{name}`", "ApiKey")
        client = client_of(clients, given[0]) if len(given) == 1 else None
        if client is None:
            return Denied(401, "the API key is not one of this route's", "ApiKey")
        return Admitted(client)

    def _by_token(
        self,
        wanted: Jwt,
        headers: Headers,
        keys_at: Callable[[str], "tuple[Key, ...] | None"],
    ) -> Admitted | Denied | KeysWanted:
        from services.router.access.tokens import Bearer, UnknownKey, check  # noqa: PLC0415

        given = [value for name, value in headers if name == b"authorization"]
        if not given:
            return Denied(401, "send a token as `Authorization: Bearer …`", "Bearer")
        if len(given) > 1 or given[0][:7].lower() != _BEARER:
            return _invalid("`Authorization` must hold one bearer token")
        keys = self._keys
        if keys is None:
            url = wanted.keys_url or ""
            keys = keys_at(url)
            if keys is None:
                return KeysWanted(url)
        found = check(given[0][7:].strip().decode("latin-1"), keys, wanted)
        if isinstance(found, Bearer):
            return Admitted(found.subject)
        if isinstance(found, UnknownKey):
            return KeysWanted(wanted.keys_url) if wanted.keys_url else _invalid(UNKNOWN_KEY)
        if found.lacks_scope:
            challenge = f'Bearer error="insufficient_scope", scope="{" ".join(wanted.scopes)}"'
            return Denied(403, f"the token is not enough here: {found.why}", challenge)
        return _invalid(f"the token is not accepted: {found.why}")


UNKNOWN_KEY: Final = "the token is not accepted: its issuer has no such key"


def _invalid(detail: str) -> Denied:
    return Denied(401, detail, 'Bearer error="invalid_token"')


def gate_of(spec: RouteSpec) -> Gate | None:
    """Return what the route asks, or None if it takes everyone."""
    asked = (spec.authentication, spec.cors, spec.rate_limit, spec.body_bytes)
    return None if all(each is None for each in asked) else Gate(spec)
