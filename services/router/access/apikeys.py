"""Which client an API key belongs to.

Keys are compared by digest: what a wrong guess shares with a right key says
nothing about how long the look-up takes.
"""

import hashlib
from collections.abc import Mapping, Sequence

from schemas.access import ApiKey


def by_digest(keys: Sequence[ApiKey]) -> dict[str, str]:
    """Return the clients by the digests of their keys."""
    return {key.sha256: key.client for key in keys}


def client_of(clients: Mapping[str, str], key: bytes) -> str | None:
    """Return whose `key` is, or None if it is nobody's."""
    return clients.get(hashlib.sha256(key).hexdigest())
