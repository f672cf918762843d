"""Examples in plain wasmtime, without anything of ours: the oracle for the keeper."""

import functools
from pathlib import Path

import msgspec
import pytest
import wasmtime

EXAMPLES = Path(__file__).parents[2] / "examples"


class Ran(msgspec.Struct, frozen=True):
    status: int | str
    stdout: bytes
    stderr: bytes


@pytest.fixture(scope="module")
def engine():
    config = wasmtime.Config()
    config.consume_fuel = True
    return wasmtime.Engine(config)


@pytest.fixture(scope="module")
def compiled(engine):
    """Compile a module once: an interpreter takes seconds."""
    return functools.cache(lambda path: wasmtime.Module.from_file(engine, str(path)))


@pytest.fixture
def run(engine, compiled, tmp_path: Path):
    """Run a module as a WASI command with nothing but argv, environment and stdin."""

    def run(
        module: Path | str,
        *arguments: str,
        environment: dict[str, str] | None = None,
        stdin: bytes = b"",
        memory_mib: int = 128,
    ) -> Ran:
        path = EXAMPLES / module / f"{module}.wasm" if isinstance(module, str) else module
        config = wasmtime.WasiConfig()
        config.argv = [path.name, *arguments]
        config.env = list((environment or {}).items())
        (tmp_path / "in").write_bytes(stdin)
        config.stdin_file = tmp_path / "in"
        config.stdout_file = tmp_path / "out"
        config.stderr_file = tmp_path / "err"
        store = wasmtime.Store(engine)
        store.set_wasi(config)
        store.set_limits(memory_size=memory_mib << 20)
        store.set_fuel(10**9)
        linker = wasmtime.Linker(engine)
        linker.define_wasi()
        status: int | str = 0
        try:
            instance = linker.instantiate(store, compiled(path))
            instance.exports(store)["_start"](store)
        except wasmtime.ExitTrap as error:
            status = error.code
        except wasmtime.Trap as error:
            status = error.trap_code.name if error.trap_code else str(error)
        return Ran(status, (tmp_path / "out").read_bytes(), (tmp_path / "err").read_bytes())

    return run
