from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keeper.listeners import listen
from keeper.settings import default_budget_mib, port_range, read, verifier
from schemas.settings import SettingsError

FLAGS = {"keeper_id": "k", "control_key": "c", "artifact_key": "a", "cache_dir": "d"}


def test_flags_win_over_the_environment() -> None:
    environ = {"WASMFN_KEEPER_CAPACITY": "5", "WASMFN_KEEPER_HOST": "10.0.0.1", "PATH": "/bin"}
    settings = read({**FLAGS, "capacity": "7"}, environ)
    assert (settings.capacity, settings.host) == (7, "10.0.0.1")


@pytest.mark.parametrize(
    "wrong",
    [{"capacity": "0"}, {"capacity": "many"}, {"function_ports": "9-1"}, {"control_fd": "x"}],
)
def test_a_wrong_value_names_its_setting(wrong: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"(?i)capacity|function_ports|control_fd"):
        read({**FLAGS, **wrong}, {})


def test_an_unknown_variable_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"WASMFN_KEEPER_CAPACTY"):
        read(FLAGS, {"WASMFN_KEEPER_CAPACTY": "5"})


def test_a_port_range_is_first_to_last() -> None:
    assert list(port_range("7-9")) == [7, 8, 9]


@pytest.mark.parametrize("form", ["raw", "hex", "pem"])
def test_a_public_key_is_read_in_each_form(form: str, tmp_path: Path) -> None:
    private = Ed25519PrivateKey.generate()
    public = private.public_key()
    file = tmp_path / "key"
    file.write_bytes(
        {
            "raw": public.public_bytes_raw(),
            "hex": public.public_bytes_raw().hex().encode() + b"\n",
            "pem": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        }[form]
    )
    verify = verifier(str(file))
    assert verify(private.sign(b"text"), b"text")
    assert not verify(private.sign(b"text"), b"other text")
    assert not verify(b"", b"text")


def test_a_file_without_such_a_key_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "key"
    other = generate_private_key(SECP256R1()).public_key()
    for content in (
        b"",
        b"zz",
        other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    ):
        file.write_bytes(content)
        with pytest.raises(SettingsError, match="holds no Ed25519 public key"):
            verifier(str(file))
    with pytest.raises(SettingsError, match="cannot read"):
        verifier(str(tmp_path / "missing"))


def test_an_address_in_use_is_told() -> None:
    with listen("127.0.0.1:0") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"127.0.0.1:{port}"):
            listen(f"127.0.0.1:{port}")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:x", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_told(address: str) -> None:
    with pytest.raises(SettingsError, match="cannot listen"):
        listen(address)


def test_the_memory_budget_is_part_of_what_there_is_unless_it_is_given(tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    machine = default_budget_mib(limit)
    assert machine > 100
    limit.write_text("max\n")
    assert default_budget_mib(limit) == machine
    limit.write_text(f"{100 << 20}\n")
    assert default_budget_mib(limit) == 75
