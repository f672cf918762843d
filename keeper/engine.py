"""The engine: the one configuration of wasmtime that compiles modules and runs them.

It serves the compiler (`python -m keeper compile`) and the server, so a
precompiled module always fits. Instances live in a pool whose slots keep their
first pages resident (a fresh sandbox in 30 us instead of 80); an engine without
a pool takes the same precompiled code.
"""

import hashlib
from typing import Final

from keeper import capi

MAX_WASM_STACK: Final = 1 << 20
EMPTY_MODULE: Final = b"\0asm\1\0\0\0"


class ModuleError(Exception):
    """The module cannot run here. The message is a sentence for its author."""


def configure(config: int, *, slots: int = 0) -> None:
    """Set in `config` what every engine here has, and a pool of `slots` instances, or none.

    Either way the engine runs the same precompiled modules. Each slot costs two mappings,
    which every fork copies, so the pool is as small as can be.
    """
    capi.config_epoch_interruption_set(config, True)
    capi.config_parallel_compilation_set(config, False)
    capi.config_max_wasm_stack_set(config, MAX_WASM_STACK)
    # Not for functions: shared memory outlives its instance's rules, and a
    # 64-bit memory has no guard pages to lean on.
    capi.config_wasm_threads_set(config, False)
    capi.config_wasm_memory64_set(config, False)
    if slots:
        pool = capi.pool_new()
        for option, value in {
            "total_core_instances": slots,
            "total_memories": slots,
            "total_tables": slots,
            "total_stacks": slots,
            # A function uses the slot in which its process has rehearsed: 80 KiB less.
            "max_unused_warm_slots": 0,
            "linear_memory_keep_resident": 256 * 1024,
            "table_keep_resident": 64 * 1024,
            "async_stack_keep_resident": 64 * 1024,
        }.items():
            capi.pool_set(pool, option, value)
        capi.config_pool_set(config, pool)
        capi.pool_delete(pool)


def new_engine(*, slots: int = 0) -> int:
    """Return the address of an engine; see `configure`. It lives as long as the process."""
    config = capi.config_new()
    configure(config, slots=slots)
    engine: int = capi.engine_new(config)
    return engine


def engine_hash(engine: int) -> str:
    """Return 16 hexadecimal digits that are equal where precompiled modules are interchangeable.

    A precompiled module begins with everything it depends on (version, target,
    processor features, compiler settings), so the empty module is a complete
    description of its engine.
    """
    return hashlib.sha256(precompile(engine, EMPTY_MODULE)).hexdigest()[:16]


def precompile(engine: int, wasm: bytes) -> bytes:
    """Return what a module of ours compiles to; those of others are checked in `module`."""
    module = capi.made(capi.module_new, engine, wasm, len(wasm))
    try:
        return capi.serialized(module)
    finally:
        capi.module_delete(module)


def one_line(error: Exception) -> str:
    """Return what an error says, on one line."""
    return " ".join(str(error).split())[:500]
