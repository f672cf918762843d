from pathlib import Path

import pytest

from keeper import capi
from keeper.engine import ModuleError, engine_hash, new_engine
from keeper.function import Function, Host
from keeper.module import new_compiler
from keeper.sandbox import IDLE_SANDBOX


def test_the_engine_hash_is_the_same_with_and_without_a_pool_and_of_the_compiler() -> None:
    compiler = new_compiler()
    hashes = {
        engine_hash(e) for e in (new_engine(slots=4), new_engine(), capi.address_of(compiler))
    }
    assert len(hashes) == 1


def test_what_is_not_precompiled_for_this_engine_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"\x7fELF nonsense")
    with pytest.raises(ModuleError):
        Function(Host(), str(file), IDLE_SANDBOX, {})
