"""The texts that are signed. Pure: who holds keys signs and checks with a library.

Ed25519 (RFC 8032) signs both. A control call is bound to one keeper process
(its id and boot nonce), to the leader's term and to a counter, so a captured
call can be replayed neither to the same keeper nor to another, and a deposed
leader is refused by number. No clock is involved.
"""

import msgspec

SIGNED_HEADER = "x-wasmfn-signed"
"""Compact JSON of `Claims`."""
SIGNATURE_HEADER = "x-wasmfn-signature"
"""Ed25519 over `control_text`, in hexadecimal."""


class Claims(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a control call says of itself; method and path are taken from the call."""

    keeper: str
    boot: str
    term: int
    counter: int
    body_sha256: str


def control_text(method: str, path: str, claims: Claims) -> bytes:
    """Return the bytes that a control call's signature covers."""
    return (
        f"wasmfn control 1\n{method} {path}\n{claims.keeper}\n{claims.boot}\n"
        f"{claims.term} {claims.counter}\n{claims.body_sha256}\n"
    ).encode()


def artifact_text(module: str, engine: str, artifact_sha256: str) -> bytes:
    """Return the bytes that an artifact's signature covers."""
    return f"wasmfn artifact 1\n{module}\n{engine}\n{artifact_sha256}\n".encode()
