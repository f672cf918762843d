"""The public keys of token issuers, fetched where they publish them.

A spec may name any URL, and a router stands inside the cluster, so it fetches
only from origins that its operator allows. Keys that were read stay in use
while their issuer is away; they are read again when they are old, or when a
token names one that is not among them, and not more often than that makes sense.
"""

import asyncio
import logging
from typing import Final
from urllib.parse import urlsplit

import httpx
import msgspec

from services.router.access.tokens import Key, read_keys

log = logging.getLogger(__name__)

FRESH_S: Final = 3600.0
"""Keys older than that are read again, in the background."""
AGAIN_S: Final = 30.0
"""No sooner is the same address asked again, whatever tokens name."""
_TIMEOUT_S: Final = 5.0
_MAX_BYTES: Final = 256 * 1024
_MAX_ADDRESSES: Final = 1000


class KeysUnavailable(Exception):  # noqa: N818 - it says what happened
    """There are no keys to check with. The message says why, for the operator's log."""


class _Set(msgspec.Struct, frozen=True, forbid_unknown_fields=False):
    keys: list[object]


class _Held:
    """What is known of one address."""

    __slots__ = ("fetching", "keys", "next_at", "read_at")

    def __init__(self) -> None:
        self.keys: tuple[Key, ...] | None = None
        self.read_at = 0.0
        self.next_at = 0.0
        self.fetching: asyncio.Task[None] | None = None


class KeySets:
    """Issuers' keys by URL."""

    def __init__(self, origins: tuple[str, ...], transport: httpx.AsyncBaseTransport | None = None):
        """Allow `origins`, such as `https://login.example`; `transport` is for tests."""
        self._origins = frozenset(origins)
        self._held: dict[str, _Held] = {}
        self._client = httpx.AsyncClient(
            timeout=_TIMEOUT_S, follow_redirects=False, transport=transport, trust_env=False
        )

    def keys_at(self, url: str) -> tuple[Key, ...] | None:
        """Return the keys as last read, or None if they never were."""
        held = self._held.get(url)
        if held is None or held.keys is None:
            return None
        if asyncio.get_running_loop().time() - held.read_at > FRESH_S:
            self._fetch(url, held)
        return held.keys

    async def refresh(self, url: str) -> tuple[Key, ...]:
        """Return the keys, read anew unless they were just now. Calls at once share one fetch.

        Raises:
            KeysUnavailable: there are none, and there will be none soon.
        """
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        if origin not in self._origins:
            raise KeysUnavailable(f"this router may not fetch keys from {origin}")
        held = self._held.get(url)
        if held is None:
            if len(self._held) >= _MAX_ADDRESSES:
                raise KeysUnavailable("this router knows too many issuers already")
            held = self._held[url] = _Held()
        fetching = self._fetch(url, held)
        if fetching is not None:
            await asyncio.shield(fetching)
        if held.keys is None:
            raise KeysUnavailable(f"the keys at {origin} cannot be read now")
        return held.keys

    async def close(self) -> None:
        """End what is under way."""
        tasks = [held.fetching for held in self._held.values() if held.fetching is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._client.aclose()

    def _fetch(self, url: str, held: _Held) -> asyncio.Task[None] | None:
        """Return the fetch that runs or begins, or None if it is too soon for one."""
        if held.fetching is not None and not held.fetching.done():
            return held.fetching
        loop = asyncio.get_running_loop()
        if loop.time() < held.next_at:
            return None
        held.next_at = loop.time() + AGAIN_S
        held.fetching = loop.create_task(self._read(url, held))
        return held.fetching

    async def _read(self, url: str, held: _Held) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_S), self._client.stream("GET", url) as answer:
                keys = read_keys(msgspec.json.decode(await _body(answer), type=_Set).keys)
        except (httpx.HTTPError, TimeoutError, ValueError) as error:
            # A response's text may hold anything: only what kind of trouble it was is said.
            log.warning(
                "cannot read an issuer's keys; those that were read before stay in use",
                extra={"url": url, "reason": f"{type(error).__name__}: {error}"[:200]},
            )
            return
        held.keys, held.read_at = keys, asyncio.get_running_loop().time()


async def _body(answer: httpx.Response) -> bytes:
    """Return the body of a good answer. Raises httpx.HTTPError, ValueError."""
    answer.raise_for_status()
    body = bytearray()
    async for piece in answer.aiter_bytes():
        body += piece
        if len(body) > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES} bytes")
    return bytes(body)
