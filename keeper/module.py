"""A module as its author gave it: checked, and compiled for the engine that will run it.

This uses wasmtime's high-level API, which knows the types of imports and
exports. The processes that serve do without it (see `capi`).
"""

import wasmtime

from keeper import capi
from keeper.engine import EMPTY_MODULE, ModuleError, configure, one_line


def new_compiler() -> wasmtime.Engine:
    """Return an engine whose precompiled modules fit those of `keeper.engine`."""
    config = wasmtime.Config()
    configure(capi.address_of(config))
    return wasmtime.Engine(config)


def compile_module(engine: wasmtime.Engine, wasm: bytes) -> wasmtime.Module:
    """Validate and compile `wasm`.

    Raises:
        ModuleError: it is no valid module, or not one that can run here.
    """
    if wasm[:4] != EMPTY_MODULE[:4]:
        raise ModuleError("this is not a WebAssembly module: it does not begin with \\0asm")
    if wasm[4:8] == b"\x0d\0\1\0":
        raise ModuleError(
            "this is a WebAssembly component; functions here are core modules "
            "(target wasm32-wasip1, also called wasm32-wasi)"
        )
    try:
        module = wasmtime.Module(engine, wasm)
    except wasmtime.WasmtimeError as error:
        raise ModuleError(f"the module is not valid: {one_line(error)}") from error
    check_module(module)
    return module


def check_module(module: wasmtime.Module) -> None:
    """Refuse a module that no request could ever run.

    Raises:
        ModuleError: says what it lacks or wants too much.
    """
    start = next((e for e in module.exports if e.name == "_start"), None)
    if start is None:
        raise ModuleError(
            "the module exports no function `_start`; build it as a command (a program "
            "with a main function), not as a library"
        )
    kind = start.type
    if not isinstance(kind, wasmtime.FuncType) or kind.params or kind.results:
        raise ModuleError("the module's `_start` must be a function without parameters and results")
    wanted = sorted(
        f"{i.module}.{i.name}" for i in module.imports if i.module != "wasi_snapshot_preview1"
    )
    if wanted:
        more = f" and {len(wanted) - 1} more" if len(wanted) > 1 else ""
        raise ModuleError(
            f"the module imports {wanted[0]}{more}, which no function here gets; "
            "only wasi_snapshot_preview1 is provided"
        )
