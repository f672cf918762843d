"""Let a request in at a route that asks something: the gate decides, this fetches what it lacks."""

# ruff: noqa: N818 - the name says what happened

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from services.router.access.gate import Admitted, Answered, Denied, Gate, Headers, KeysWanted
from services.router.problems import Problem

if TYPE_CHECKING:
    from services.router.access.keysets import KeySets
    from services.router.access.tokens import Key

log = logging.getLogger(__name__)

CLIENT_HEADER: Final = b"x-wasmfn-client"
"""Tells the function who sent the request; nobody else can set it."""

_UNKNOWN: Final = Problem(
    401, "the token is not accepted: its issuer has no such key",
    challenge='Bearer error="invalid_token"',
)  # fmt: skip


class TurnedAway(Exception):
    """The request does not get in."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(problem.detail)


class Entry:
    """The way in at routes that ask something."""

    def __init__(self, origins: tuple[str, ...]) -> None:
        """Take the origins that public keys may be fetched from."""
        self._origins = origins
        self._keysets: KeySets | None = None

    async def enter(
        self, gate: Gate, method: str, headers: Headers, address: str
    ) -> Admitted | Answered:
        """Return who comes in, or the answer to a preflight.

        Raises:
            TurnedAway: nobody does; its problem says why.
        """
        now = asyncio.get_running_loop().time()
        found = gate.admit(method, headers, address, now, self._keys_at)
        if isinstance(found, KeysWanted):
            keys = await self._refresh(found.url)
            # What was counted before is not counted twice: a token is looked at after an address.
            found = gate.admit_token(headers, keys, now)
        if isinstance(found, Denied):
            raise TurnedAway(
                Problem(
                    found.status, found.detail,
                    retry_after_s=found.retry_after_s, challenge=found.challenge,
                )
            )  # fmt: skip
        if isinstance(found, KeysWanted):
            raise TurnedAway(_UNKNOWN)
        return found

    async def close(self) -> None:
        """End what is being fetched."""
        if self._keysets is not None:
            await self._keysets.close()

    def _keys_at(self, url: str) -> "tuple[Key, ...] | None":
        return self._keysets.keys_at(url) if self._keysets is not None else None

    async def _refresh(self, url: str) -> "tuple[Key, ...]":
        # Most routers never need a client and what reads tokens.
        from services.router.access.keysets import KeySets, KeysUnavailable  # noqa: PLC0415

        if self._keysets is None:
            self._keysets = KeySets(self._origins)
        try:
            return await self._keysets.refresh(url)
        except KeysUnavailable as error:
            log.warning("a token cannot be checked: %s", error, extra={"url": url})
            detail = "tokens cannot be checked at the moment; send the request again later"
            raise TurnedAway(Problem(503, detail, retry_after_s=5.0)) from None


def client_address(peer: str, headers: Headers, *, trusted: bool) -> str:
    """Return where a request came from: what a trusted proxy says last, or else the peer."""
    if not trusted:
        return peer
    chain = [value for name, value in headers if name == b"x-forwarded-for"]
    last = chain[-1].rpartition(b",")[2].strip() if chain else b""
    return last.decode("latin-1") or peer


def without(headers: list[tuple[bytes, bytes]], name: bytes) -> list[tuple[bytes, bytes]]:
    """Return the headers that are not `name`."""
    return [header for header in headers if header[0] != name]
