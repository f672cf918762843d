"""The secrets of a local platform, made once and kept below its data directory.

Two Ed25519 key pairs: `control`, with which the scheduler signs its calls to
keepers, and `artifact`, with which the builder signs what it compiled. Keepers
get the public halves only. A token lets clients into the local NATS. All are
text, so that they can be looked at and copied; private ones are for this user.
"""

import secrets
from pathlib import Path
from typing import Final

import msgspec

from wasmfn.paths import Layout, write_private

PAIRS: Final = ("control", "artifact")


class KeyPair(msgspec.Struct, frozen=True):
    """The files of one key pair: 32 raw bytes each, in hexadecimal."""

    private: Path
    public: Path


def key_pair(layout: Layout, name: str) -> KeyPair:
    """Return where the key pair `name` is."""
    return KeyPair(layout.keys / f"{name}.key", layout.keys / f"{name}.pub")


def ensure_keys(layout: Layout) -> None:
    """Make what is not there yet. OSError if it cannot be written."""
    for name in PAIRS:
        pair = key_pair(layout, name)
        if not (pair.private.exists() and pair.public.exists()):
            _make_pair(pair)
    if not layout.token.exists():
        write_private(layout.token, secrets.token_urlsafe(32).encode() + b"\n")


def _make_pair(pair: KeyPair) -> None:
    # Needed once in a platform's life, and it takes a while to import.
    from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415

    key = ed25519.Ed25519PrivateKey.generate()
    # The public half last: where it is, the pair is whole.
    write_private(pair.private, key.private_bytes_raw().hex().encode() + b"\n")
    write_private(pair.public, key.public_key().public_bytes_raw().hex().encode() + b"\n")
