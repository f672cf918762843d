"""Compiles one module for the builder, and says in JSON what is in it.

The builder runs this as a child process with limits: compiling is work for a
hostile module to blow up, and what runs a module must be what compiled it.
"""

import time
from pathlib import Path
from typing import Literal

import msgspec
import wasmtime

from keeper import capi
from keeper.engine import ModuleError, engine_hash
from keeper.module import compile_module, new_compiler

Kind = Literal["function", "memory", "table", "global", "tag"]


class Import(msgspec.Struct, frozen=True):
    """Something the module wants."""

    module: str
    name: str
    kind: Kind


class Export(msgspec.Struct, frozen=True):
    """Something the module offers."""

    name: str
    kind: Kind


class Report(msgspec.Struct, frozen=True):
    """What `compile --json` prints, on one line. With `ok` false nothing was written."""

    ok: bool
    error: str | None
    """One sentence for the module's author."""
    engine: str
    compile_ms: float = 0.0
    imports: list[Import] = []
    exports: list[Export] = []
    memory_min_pages: int | None = None
    """None if the module has no memory. A page is 64 KiB."""
    memory_max_pages: int | None = None


def compile_file(source: Path, target: Path) -> Report:
    """Compile the module in `source` into `target`.

    Raises:
        OSError: one of the files cannot be read or written.
    """
    engine = new_compiler()
    engine_id = engine_hash(capi.address_of(engine))
    wasm = source.read_bytes()
    started = time.monotonic()
    try:
        module = compile_module(engine, wasm)
    except ModuleError as error:
        return Report(ok=False, error=str(error), engine=engine_id)
    compiled = module.serialize()
    compile_ms = (time.monotonic() - started) * 1e3
    target.write_bytes(compiled)
    memory = next((e.type for e in module.exports if isinstance(e.type, wasmtime.MemoryType)), None)
    return Report(
        ok=True,
        error=None,
        engine=engine_id,
        compile_ms=round(compile_ms, 3),
        imports=[Import(i.module, i.name or "", _kind(i.type)) for i in module.imports],
        exports=[Export(e.name, _kind(e.type)) for e in module.exports],
        memory_min_pages=memory.limits.min if memory is not None else None,
        memory_max_pages=memory.limits.max if memory is not None else None,
    )


def _kind(of: object) -> Kind:
    match of:
        case wasmtime.FuncType():
            return "function"
        case wasmtime.MemoryType():
            return "memory"
        case wasmtime.TableType():
            return "table"
        case wasmtime.GlobalType():
            return "global"
        case _:
            return "tag"
