import stat

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keeper.settings import verifier
from services.scheduler.keepers import read_control_key
from wasmfn.keys import PAIRS, ensure_keys, key_pair
from wasmfn.paths import Layout


def test_a_pair_signs_and_checks_as_its_users_read_it(tmp_path):
    layout = Layout(tmp_path)
    layout.create()
    ensure_keys(layout)
    control = key_pair(layout, "control")
    signature = read_control_key(control.private).sign(b"text")
    assert verifier(str(control.public))(signature, b"text")
    assert not verifier(str(key_pair(layout, "artifact").public))(signature, b"text")
    assert not verifier(str(control.public))(Ed25519PrivateKey.generate().sign(b"text"), b"text")


def test_keys_are_made_once_and_only_for_this_user(tmp_path):
    layout = Layout(tmp_path)
    layout.create()
    ensure_keys(layout)
    files = [*layout.keys.iterdir()]
    before = {file.name: file.read_bytes() for file in files}
    assert len(before) == 2 * len(PAIRS) + 1
    assert len(set(before.values())) == len(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    ensure_keys(layout)
    assert {file.name: file.read_bytes() for file in files} == before


def test_half_a_pair_is_made_anew(tmp_path):
    layout = Layout(tmp_path)
    layout.create()
    ensure_keys(layout)
    pair = key_pair(layout, "artifact")
    pair.public.unlink()
    ensure_keys(layout)
    signature = read_control_key(pair.private).sign(b"text")
    assert verifier(str(pair.public))(signature, b"text")
