"""Modules made ready for calls: everything that is done once, so that a call is only a call.

A module whose tables or globals are too large for a slot of the pool runs on an
engine without one (see `engine`).

Everything here is safe before a fork: nothing compiles in parallel and no
WASI call runs, so no thread exists. The first call in a child starts tokio's
worker, which wasmtime's WASI needs; `TOKIO_WORKER_THREADS` keeps it to one.

WASI is wasmtime's own (preview 1): argv, environment, stdin, stdout and
stderr; no directories, no network.
"""

import os
from typing import Final

from keeper import capi
from keeper.call import Call
from keeper.engine import EMPTY_MODULE, ModuleError, new_engine, one_line, precompile
from keeper.sandbox import IDLE_SANDBOX, Sandbox
from keeper.slot import Slot, new_file
from keeper.ticker import Ticker

DEFAULT_SLOTS: Final = 16
"""Size of the zygote's pool: what a function's default concurrency needs."""
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


class Host:
    """An engine and what every module is linked with; made before the fork, used after it."""

    def __init__(self, *, slots: int = DEFAULT_SLOTS, flush_code: bytes = b"") -> None:
        self.slots = slots
        self.engine = new_engine(slots=slots)
        self.ticker = Ticker(self.engine)
        self.linker = capi.linker_new(self.engine)
        capi.must(capi.linker_define_wasi(self.linker))
        self.flush_code = flush_code or precompile(self.engine, _FLUSH_COMMAND)
        self.flusher = Function(self, self.flush_code, IDLE_SANDBOX, {}, concurrency=0)
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
        self.has_wasi = True
        """Whether calls are given WASI; not for a module that imports nothing before a fork:
        wasmtime seeds its source of random bytes at first, and all children would draw the same."""
        self.variables = {name.encode(): value.encode() for name, value in variables.items()}
        self._free: list[Slot] = []
        self._files: list[int] = []
        self._concurrency = concurrency
        if concurrency > host.slots:
            host = Host(slots=concurrency, flush_code=host.flush_code)
        try:
            self._load(host, code)
        except capi.EngineError:
            # It may only be too large for a slot of the pool.
            try:
                self._load(Host(slots=0, flush_code=host.flush_code), code)
            except capi.EngineError as error:
                raise ModuleError(f"the module cannot be loaded: {one_line(error)}") from error

    def _load(self, host: Host, code: str | bytes) -> None:
        if isinstance(code, bytes):
            module = capi.made(capi.module_deserialize, host.engine, code, len(code))
        else:
            module = capi.made(capi.module_deserialize_file, host.engine, code.encode())
        try:
            self.instance_pre = capi.made(capi.linker_instantiate_pre, host.linker, module)
        finally:
            capi.module_delete(module)  # what is prepared holds it
        self.engine = host.engine
        self.ticker = host.ticker
        self._host = host

    def call(
        self,
        argv: list[bytes],
        stdin: bytes = b"",
        variables: dict[bytes, bytes] | None = None,
    ) -> Call:
        """Begin an invocation in a fresh sandbox; nothing runs before its first `step`.

        `variables` replace the function's own for this call.
        """
        slot = self._free.pop() if self._free else self._new_slot()
        try:
            return Call(self, slot, argv, stdin, self.variables if variables is None else variables)
        except ValueError:
            self.release(slot)
            raise

    def _new_slot(self) -> Slot:
        files = self._files or [new_file(), new_file()]
        return Slot(files.pop(), files.pop())

    def release(self, slot: Slot) -> None:
        """Take back the slot of a call that has ended."""
        self._free.append(slot)

    def prepare(self) -> None:
        """Make what calls need, before the process is denied new threads and memory files."""
        # Not whole slots: they would be 40 KiB, and most functions never use most of them.
        self._files += [new_file() for _ in range(2 * self._concurrency)]
        if self.ticker.start():  # else it has rehearsed, and tokio's thread runs as well
            self.flush()

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
        for descriptor in self._files:
            os.close(descriptor)
