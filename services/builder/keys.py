"""The builder's signing key, which makes an artifact one that keepers will run."""

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from services.process import PublicError

_RAW_BYTES = 32


def read_signing_key(file: Path) -> Ed25519PrivateKey:
    """Return the Ed25519 private key in `file`: PEM (PKCS 8), hexadecimal or 32 raw bytes.

    Raises:
        PublicError: no such file, others may read it, or it holds no such key.
    """
    try:
        found = file.stat()
        # Kubernetes keeps the files of a Secret root's and lets a pod's group read them.
        if found.st_mode & (0o077 if found.st_uid == os.geteuid() else 0o007):
            raise PublicError(f"others may read the signing key {file}; run: chmod 600 {file}")
        data = file.read_bytes()
    except OSError as error:
        raise PublicError(f"cannot read the signing key {file}: {error.strerror}") from error
    try:
        return _key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Not chained: what the parser says may quote the key.
        raise PublicError(f"{file} holds no Ed25519 private key") from None


def _key(data: bytes) -> Ed25519PrivateKey:
    if len(data) == _RAW_BYTES:
        return Ed25519PrivateKey.from_private_bytes(data)
    if not data.startswith(b"-----"):
        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(data.decode("ascii").strip()))
    key = load_pem_private_key(data, password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise TypeError("a key of another kind")
    return key
