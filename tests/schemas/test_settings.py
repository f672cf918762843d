"""Settings: file, environment over it, and every mistake answered with the variable's name."""

from pathlib import Path

import msgspec
import pytest

from schemas.settings import SettingsError, read_settings


class Example(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    nats_url: str = "nats://127.0.0.1:4222"
    limit: int = 3
    quick: bool = False
    hosts: list[str] = []


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "example.toml"
    file.write_text('limit = 4\nnats_url = "nats://a"\n')
    settings = read_settings(Example, "X_", {"X_LIMIT": "5", "OTHER": "1"}, str(file))
    assert settings == Example(nats_url="nats://a", limit=5)


def test_text_becomes_the_type_of_its_field() -> None:
    settings = read_settings(Example, "X_", {"X_QUICK": "true", "X_HOSTS": '["a", "b"]'})
    assert settings == Example(quick=True, hosts=["a", "b"])


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"X_LIMIT": "many"}, "X_LIMIT"),
        ({"X_LIMITT": "3"}, "X_LIMITT"),
        ({"X_HOSTS": "[1"}, "X_HOSTS"),
    ],
)
def test_a_wrong_variable_is_refused_by_name(environ: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        read_settings(Example, "X_", environ)


def test_a_wrong_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nowhere"):
        read_settings(Example, "X_", {}, str(tmp_path / "nowhere.toml"))
    bad = tmp_path / "bad.toml"
    bad.write_text("limit = = 3")
    with pytest.raises(SettingsError, match="bad"):
        read_settings(Example, "X_", {}, str(bad))
