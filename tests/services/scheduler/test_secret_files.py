from pathlib import Path

import pytest

from schemas.specs import SecretRef
from services.scheduler.secret_files import SecretError, read_secrets

PASSWORD = {"PASSWORD": SecretRef("db", "password")}


def write(directory: Path, content: bytes, namespace: str = "default") -> None:
    (directory / namespace / "db").mkdir(parents=True)
    (directory / namespace / "db" / "password").write_bytes(content)


def test_a_secret_is_read_from_its_namespace(tmp_path: Path) -> None:
    write(tmp_path, "pä55".encode())
    assert read_secrets(tmp_path, "default", PASSWORD) == {"PASSWORD": "pä55"}
    with pytest.raises(SecretError, match="'other'"):
        read_secrets(tmp_path, "other", PASSWORD)


@pytest.mark.parametrize("content", [b"hush\0", b"hush\xff", b"hush" * 20_000])
def test_what_cannot_be_a_variable_is_refused_without_being_told(
    tmp_path: Path, content: bytes
) -> None:
    write(tmp_path, content)
    with pytest.raises(SecretError, match="'db', key 'password'") as refused:
        read_secrets(tmp_path, "default", PASSWORD)
    assert "hush" not in str(refused.value)


def test_a_missing_secret_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SecretError, match="create it"):
        read_secrets(tmp_path, "default", PASSWORD)
