"""One invocation: a sandbox that is made, run in slices and thrown away.

A call runs asynchronously: `step` runs user code until it ends or its slice
is over (see `ticker`), so an endless loop shares the process with others and
is ended by dropping it. Its output goes to memory files (see `slot`), whose
size the process limits (`RLIMIT_FSIZE`): a flood fails at once, and `step` ends
it at the end of the slice.
"""

import ctypes
import time
from typing import Final, Protocol

import msgspec

from keeper import capi
from keeper.sandbox import Sandbox
from keeper.slot import Slot

_START: Final = b"_start"
_MAX_INSTANCES: Final = 1
_MAX_TABLES: Final = 16
_MAX_MEMORIES: Final = 1
_MAX_TABLE_ELEMENTS: Final = 1_000_000


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """How an invocation ended."""

    exit_code: int | None
    """None if it did not end by itself."""
    error: str | None
    """None if it ended with exit code 0; else the reason in words."""
    stdout: bytes
    """At most the output limit."""
    stderr: bytes
    run_ms: float
    timed_out: bool = False


class Callee(Protocol):
    """What a call needs of the function that it runs (see `function`)."""

    sandbox: Sandbox
    engine: int
    instance_pre: int
    has_wasi: bool

    def release(self, slot: Slot) -> None:
        """Take back the slot of a call that has ended."""

    def flush(self) -> None:
        """Get rid of what WASI could not write of a flood."""


class Call:
    """An invocation that has begun. Call `step` until it returns the outcome."""

    __slots__ = (
        "_context", "_function", "_future", "_instantiated", "_slot", "_started", "_store",
        "abandoned", "deadline",
    )  # fmt: skip

    abandoned: bool
    """Nobody waits for its outcome any more."""
    deadline: float
    """When it must have ended, on the monotonic clock."""

    def __init__(
        self,
        function: Callee,
        slot: Slot,
        argv: list[bytes],
        stdin: bytes,
        variables: dict[bytes, bytes],
    ) -> None:
        self._started = time.monotonic()
        self.deadline = self._started + function.sandbox.timeout_s
        self._function = function
        self._slot = slot
        self._instantiated = False
        self.abandoned = False
        config = _wasi_config(argv, stdin, variables) if function.has_wasi else 0
        self._store = capi.store_new(function.engine, None, None)
        self._context = context = capi.store_context(self._store)
        if config:
            capi.context_set_wasi(context, config)
        capi.store_limiter(
            self._store,
            function.sandbox.memory_bytes,
            _MAX_TABLE_ELEMENTS,
            _MAX_INSTANCES,
            _MAX_TABLES,
            _MAX_MEMORIES,
        )
        capi.context_set_epoch_deadline(context, 1)
        capi.context_epoch_yield(context, 1)
        scratch = slot.scratch
        self._future = capi.instance_pre_instantiate_async(
            function.instance_pre, context, scratch.instance, scratch.trap, scratch.error
        )

    def step(self) -> Outcome | None:
        """Run one slice. Return the outcome if the call has ended with it."""
        if time.monotonic() >= self.deadline:
            return self.drop()
        slot = self._slot
        if Slot.installed is not slot:
            slot.install()
        while capi.call_future_poll(self._future):
            capi.call_future_delete(self._future)
            self._future = 0
            trap, error = slot.scratch.take_failure()
            if trap or error:
                return self._end(*_reason(trap, error))
            if self._instantiated:
                return self._end(0, None)
            self._begin()
        if time.monotonic() >= self.deadline:
            return self.drop()
        if slot.stdout.size() > self._function.sandbox.output_bytes:
            return self._end(None, None)  # says that there is too much of it
        return None

    def drop(self) -> Outcome:
        """End the call where it stands: its time is over."""
        limit = self._function.sandbox.timeout_s
        return self._end(None, f"timed out after {limit:g} s", timed_out=True)

    def abandon(self) -> Outcome:
        """End the call where it stands: its client has left."""
        return self._end(None, "its client left before it ended")

    def stuck(self) -> Outcome:
        """Return how a call ended that keeps its thread in a host call past its time.

        It still runs: the process must end.
        """
        error = f"timed out after {self._function.sandbox.timeout_s:g} s, in a host call"
        run_ms = (time.monotonic() - self._started) * 1e3
        return Outcome(None, error, b"", b"", run_ms, timed_out=True)

    def _begin(self) -> None:
        self._instantiated = True
        scratch = self._slot.scratch
        # The export exists: no module without it is ever loaded.
        capi.instance_export_get(
            self._context, scratch.instance, _START, len(_START), scratch.extern
        )
        self._future = capi.func_call_async(
            self._context, scratch.function, None, 0, None, 0, scratch.trap, scratch.error
        )

    def _end(self, exit_code: int | None, error: str | None, *, timed_out: bool = False) -> Outcome:
        if self._future:
            capi.call_future_delete(self._future)
            self._slot.scratch.take_failure()
        capi.store_delete(self._store)
        run_ms = (time.monotonic() - self._started) * 1e3
        sandbox = self._function.sandbox
        stdout = self._slot.stdout.take(sandbox.output_bytes)
        if len(stdout) > sandbox.output_bytes:
            self._function.flush()
            stdout = stdout[: sandbox.output_bytes]
            error = f"output exceeds {sandbox.output_bytes} bytes"
            exit_code = None
            timed_out = False
        stderr = self._slot.stderr.take(sandbox.stderr_bytes)[: sandbox.stderr_bytes]
        self._function.release(self._slot)
        return Outcome(exit_code, error, stdout, stderr, run_ms, timed_out)


def _wasi_config(argv: list[bytes], stdin: bytes, variables: dict[bytes, bytes]) -> int:
    config: int = capi.wasi_config_new()
    count = len(argv)
    accepted = capi.wasi_config_set_argv(config, count, (ctypes.c_char_p * count)(*argv))
    if variables:
        count = len(variables)
        texts = ctypes.c_char_p * count
        accepted = accepted and capi.wasi_config_set_env(
            config, count, texts(*variables), texts(*variables.values())
        )
    if stdin:
        capi.set_stdin(config, stdin)
    if not accepted:
        capi.wasi_config_delete(config)
        raise ValueError("arguments and variables must be UTF-8")
    capi.wasi_config_inherit_stdout(config)
    capi.wasi_config_inherit_stderr(config)
    return config


def _reason(trap: int, error: int) -> tuple[int | None, str | None]:
    """Return exit code and reason of a failed run, and free what told them."""
    if error:
        code = ctypes.c_int(0)
        exited = capi.error_exit_status(error, ctypes.addressof(code))
        text = "" if exited else capi.text_of(error, capi.error_message)
        capi.error_delete(error)
        if exited:
            return code.value, f"exited with code {code.value}" if code.value else None
    else:
        text = capi.text_of(trap, capi.trap_message)
        capi.trap_delete(trap)
    # wasmtime puts the backtrace first, then the causes, numbered if there are more.
    cause = text.rpartition("Caused by:")[2].strip().rpartition("\n")[2]
    return None, cause.rpartition("wasm trap: ")[2].strip() or "unknown failure"
