from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.builder.keys import read_signing_key
from services.process import PublicError

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def pem(key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def file_with(directory: Path, content: bytes, mode: int = 0o600) -> Path:
    file = directory / "key"
    file.write_bytes(content)
    file.chmod(mode)
    return file


@pytest.mark.parametrize(
    "content",
    [pem(KEY), KEY.private_bytes_raw(), KEY.private_bytes_raw().hex().encode() + b"\n"],
    ids=["pem", "raw", "hex"],
)
def test_a_key_is_read_in_each_of_its_forms(tmp_path: Path, content: bytes):
    key = read_signing_key(file_with(tmp_path, content))
    assert key.private_bytes_raw() == KEY.private_bytes_raw()


@pytest.mark.parametrize(
    "content",
    [b"", b"zz", b"\xff" * 40, b"-----BEGIN", pem(ec.generate_private_key(ec.SECP256R1()))],
)
def test_what_is_no_key_is_named_and_not_quoted(tmp_path: Path, content: bytes):
    with pytest.raises(PublicError) as caught:
        read_signing_key(file_with(tmp_path, content))
    assert str(caught.value) == f"{tmp_path / 'key'} holds no Ed25519 private key"


def test_a_key_that_others_may_read_or_that_is_missing_is_refused(tmp_path: Path):
    with pytest.raises(PublicError, match="chmod 600"):
        read_signing_key(file_with(tmp_path, KEY.private_bytes_raw(), 0o640))
    with pytest.raises(PublicError, match="cannot read"):
        read_signing_key(tmp_path / "none")


def test_a_key_that_another_one_owns_and_lets_our_group_read_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # As Kubernetes mounts a Secret for a pod with a group of its own: root's, mode 0440.
    file = tmp_path / "key"
    file.write_bytes(bytes(range(32)))
    monkeypatch.setattr("os.geteuid", lambda: file.stat().st_uid + 1)
    file.chmod(0o440)
    assert read_signing_key(file).private_bytes_raw() == bytes(range(32))
    file.chmod(0o444)
    with pytest.raises(PublicError, match="others may read"):
        read_signing_key(file)
