"""Compiles, loads and prepares modules: everything about wasmtime that is done once.

One configuration serves the compiler (`python -m keeper compile`) and the
server, so a precompiled module always fits. Instances live in a pool whose
slots keep their first pages resident (a fresh sandbox in 30 us instead of 80);
a module whose tables or globals are too large for a slot runs on an engine
without a pool, which takes the same precompiled code.

Everything here is safe before a fork: nothing compiles in parallel and no
WASI call runs, so no thread exists. The first call in a child starts tokio's
worker, which wasmtime's WASI needs; `TOKIO_WORKER_THREADS` keeps it to one.

WASI is wasmtime's own (preview 1): argv, environment, stdin, stdout and
stderr; no directories, no network.
"""

import hashlib
from typing import Final

import msgspec
import wasmtime
from wasmtime import _bindings

from keeper import capi
from keeper.call import Call
from keeper.slot import KEPT_BYTES, Slot
from keeper.ticker import Ticker
from schemas.specs import MIB

DEFAULT_SLOTS: Final = 16
"""Size of the zygote's pool: what a function's default concurrency needs."""
MAX_WASM_STACK: Final = 1 << 20
EMPTY_MODULE: Final = b"\0asm\1\0\0\0"
_FLUSH_COMMAND: Final = EMPTY_MODULE + bytes.fromhex(
    "010c02 60047f7f7f7f017f 600000 02230116 776173695f736e617073686f745f7072657669657731 08"
    "66645f7772697465 0000 03020101 0503010001 071302 066d656d6f72790200 065f73746172740001"
    "0a0f010d00410141004101410c10001a0b 0b0f01 0041000b 0908000000010000000a"
)
"""Writes a line end to its stdout:

    (module
      (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1)
      (data (i32.const 0) "\\08\\00\\00\\00\\01\\00\\00\\00\\n")
      (func (export "_start")
        (drop (call 0 (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))))
"""


class ModuleError(Exception):
    """The module cannot run here. The message is a sentence for its author."""


class Sandbox(msgspec.Struct, frozen=True):
    """What one invocation may use at most."""

    memory_bytes: int
    output_bytes: int
    timeout_s: float
    stderr_bytes: int = 64 * 1024

    @property
    def file_bytes(self) -> int:
        """The largest size of an output file that its calls need."""
        return max(self.output_bytes + 1, self.stderr_bytes) + KEPT_BYTES


_FLUSH_SANDBOX: Final = Sandbox(memory_bytes=MIB, output_bytes=KEPT_BYTES, timeout_s=10.0)


def new_engine(*, slots: int = 0) -> wasmtime.Engine:
    """Return an engine with a pool of `slots` instances, or without a pool.

    Either way it runs the same precompiled modules. Each slot costs two mappings,
    which every fork copies, so the pool is as small as can be.
    """
    config = wasmtime.Config()
    config.epoch_interruption = True
    config.parallel_compilation = False
    config.max_wasm_stack = MAX_WASM_STACK
    # Not for functions: shared memory outlives its instance's rules, and a
    # 64-bit memory has no guard pages to lean on.
    config.wasm_threads = False
    config.wasm_memory64 = False
    if slots:
        pool = _bindings.wasmtime_pooling_allocation_config_new()
        for option, value in {
            "total_core_instances": slots,
            "total_memories": slots,
            "total_tables": slots,
            "total_stacks": slots,
            "linear_memory_keep_resident": 256 * 1024,
            "table_keep_resident": 64 * 1024,
            "async_stack_keep_resident": 64 * 1024,
        }.items():
            getattr(_bindings, f"wasmtime_pooling_allocation_config_{option}_set")(pool, value)
        _bindings.wasmtime_pooling_allocation_strategy_set(config.ptr(), pool)
        _bindings.wasmtime_pooling_allocation_config_delete(pool)
    return wasmtime.Engine(config)


def engine_hash(engine: wasmtime.Engine) -> str:
    """Return 16 hexadecimal digits that are equal where precompiled modules are interchangeable.

    A precompiled module begins with everything it depends on (version, target,
    processor features, compiler settings), so the empty module is a complete
    description of its engine.
    """
    return hashlib.sha256(bytes(wasmtime.Module(engine, EMPTY_MODULE).serialize())).hexdigest()[:16]


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
        raise ModuleError(f"the module is not valid: {_one_line(error)}") from error
    check_module(module)
    return module


def precompile(engine: wasmtime.Engine, wasm: bytes) -> bytes:
    """Return what `wasm` compiles to. Raises ModuleError as `compile_module` does."""
    return bytes(compile_module(engine, wasm).serialize())


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


class Host:
    """An engine and what every module is linked with; made before the fork, used after it."""

    def __init__(self, *, slots: int = DEFAULT_SLOTS, flush_code: bytes = b"") -> None:
        self.slots = slots
        self.engine = new_engine(slots=slots)
        self.ticker = Ticker(self.engine)
        self.linker = wasmtime.Linker(self.engine)
        self.linker.define_wasi()
        self.flush_code = flush_code or precompile(self.engine, _FLUSH_COMMAND)
        self.flusher = Function(self, self.flush_code, _FLUSH_SANDBOX, {}, concurrency=0)
        """Writes a line end; see `Function.flush`."""


class Function:
    """A module made ready for calls: code mapped, imports resolved, limits fixed.

    It belongs to one thread of one process.
    """

    def __init__(
        self,
        host: Host,
        code: str | bytes,
        sandbox: Sandbox,
        variables: dict[str, str],
        concurrency: int = DEFAULT_SLOTS,
    ) -> None:
        """Map a precompiled module: its bytes, or a path whose file must not change any more.

        Raises:
            ModuleError: it is not precompiled for this engine, or cannot be linked.
        """
        self.sandbox = sandbox
        self.variables = {name.encode(): value.encode() for name, value in variables.items()}
        self._free: list[Slot] = []
        if concurrency > host.slots:
            host = Host(slots=concurrency, flush_code=host.flush_code)
        try:
            self._load(host, code)
        except wasmtime.WasmtimeError:
            # It may only be too large for a slot of the pool.
            try:
                self._load(Host(slots=0, flush_code=host.flush_code), code)
            except wasmtime.WasmtimeError as error:
                raise ModuleError(f"the module cannot be loaded: {_one_line(error)}") from error

    def _load(self, host: Host, code: str | bytes) -> None:
        if isinstance(code, bytes):
            module = wasmtime.Module.deserialize(host.engine, code)
        else:
            module = wasmtime.Module.deserialize_file(host.engine, code)
        prepared = host.linker.instantiate_pre(module)
        self.engine = host.engine
        self.ticker = host.ticker
        self.engine_address = capi.address_of(host.engine)
        self.instance_pre = capi.address_of(prepared)
        self._host = host
        # The C API sees only addresses: keep what they point to.
        self._kept = (module, prepared)

    def call(
        self,
        argv: list[bytes],
        stdin: bytes = b"",
        variables: dict[bytes, bytes] | None = None,
    ) -> Call:
        """Begin an invocation in a fresh sandbox; nothing runs before its first `step`.

        `variables` replace the function's own for this call.
        """
        slot = self._free.pop() if self._free else Slot()
        try:
            return Call(self, slot, argv, stdin, self.variables if variables is None else variables)
        except ValueError:
            self.release(slot)
            raise

    def release(self, slot: Slot) -> None:
        """Take back the slot of a call that has ended."""
        self._free.append(slot)

    def flush(self) -> None:
        """Get rid of what WASI could not write of a flood, or the next call would begin with it.

        wasmtime writes stdout through Rust's line buffer. It flushes after each write, but when
        the file is full, up to 1 KiB stays in the buffer.
        """
        call = self._host.flusher.call([])
        while call.step() is None:
            pass

    def close(self) -> None:
        """Close the files of all calls that have ended; no further call may begin."""
        for slot in self._free:
            slot.close()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
