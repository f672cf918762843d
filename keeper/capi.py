"""The functions of wasmtime's C API that an invocation needs, bound for speed.

The high-level Python API rebuilds types and wrappers on every call, which
costs more than the sandbox itself. Cheap functions are bound through
`ctypes.PyDLL`: they keep the interpreter lock, since giving it up and taking
it back costs more than they do. Only `call_future_poll`, which runs user
code, is bound through `ctypes.CDLL`: it must give up the lock, or the ticker
thread could never advance the epoch that ends its slice.

Pointers are plain integers (0 is NULL). Names are those of the header
`wasmtime.h` and `wasi.h` of wasmtime 50, without the prefix.
"""

import ctypes
from collections.abc import Callable
from typing import Any

from wasmtime import _ffi

_POINTER = ctypes.c_void_p
_SIZE = ctypes.c_size_t
_TEXT = ctypes.c_char_p

_keeps_lock = ctypes.PyDLL(str(_ffi.filename))
_drops_lock = _ffi.dll


def _bind(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    # By index, because attribute access shares one function object with the
    # high-level package, whose argument types differ.
    function = library[name]
    function.restype = result
    function.argtypes = arguments
    return function


wasi_config_new = _bind(_keeps_lock, "wasi_config_new", _POINTER)
wasi_config_delete = _bind(_keeps_lock, "wasi_config_delete", None, _POINTER)
wasi_config_set_argv = _bind(
    _keeps_lock, "wasi_config_set_argv", ctypes.c_bool, _POINTER, _SIZE, _POINTER
)
wasi_config_set_env = _bind(
    _keeps_lock, "wasi_config_set_env", ctypes.c_bool, _POINTER, _SIZE, _POINTER, _POINTER
)
wasi_config_set_stdin_bytes = _bind(
    _keeps_lock, "wasi_config_set_stdin_bytes", None, _POINTER, _POINTER
)
wasi_config_inherit_stdout = _bind(_keeps_lock, "wasi_config_inherit_stdout", None, _POINTER)
wasi_config_inherit_stderr = _bind(_keeps_lock, "wasi_config_inherit_stderr", None, _POINTER)
byte_vec_new = _bind(_keeps_lock, "wasm_byte_vec_new", None, _POINTER, _SIZE, _TEXT)
byte_vec_delete = _bind(_keeps_lock, "wasm_byte_vec_delete", None, _POINTER)

store_new = _bind(_keeps_lock, "wasmtime_store_new", _POINTER, _POINTER, _POINTER, _POINTER)
store_delete = _bind(_keeps_lock, "wasmtime_store_delete", None, _POINTER)
store_context = _bind(_keeps_lock, "wasmtime_store_context", _POINTER, _POINTER)
store_limiter = _bind(
    _keeps_lock, "wasmtime_store_limiter", None, _POINTER, *([ctypes.c_int64] * 5)
)
context_set_wasi = _bind(_keeps_lock, "wasmtime_context_set_wasi", _POINTER, _POINTER, _POINTER)
context_set_epoch_deadline = _bind(
    _keeps_lock, "wasmtime_context_set_epoch_deadline", None, _POINTER, ctypes.c_uint64
)
context_epoch_yield = _bind(
    _keeps_lock,
    "wasmtime_context_epoch_deadline_async_yield_and_update",
    _POINTER,
    _POINTER,
    ctypes.c_uint64,
)

instance_pre_instantiate_async = _bind(
    _keeps_lock, "wasmtime_instance_pre_instantiate_async", _POINTER, *([_POINTER] * 5)
)
instance_export_get = _bind(
    _keeps_lock,
    "wasmtime_instance_export_get",
    ctypes.c_bool,
    _POINTER,
    _POINTER,
    _TEXT,
    _SIZE,
    _POINTER,
)
func_call_async = _bind(
    _keeps_lock,
    "wasmtime_func_call_async",
    _POINTER,
    _POINTER,
    _POINTER,
    _POINTER,
    _SIZE,
    _POINTER,
    _SIZE,
    _POINTER,
    _POINTER,
)
call_future_poll = _bind(_drops_lock, "wasmtime_call_future_poll", ctypes.c_bool, _POINTER)
call_future_delete = _bind(_keeps_lock, "wasmtime_call_future_delete", None, _POINTER)

error_delete = _bind(_keeps_lock, "wasmtime_error_delete", None, _POINTER)
error_message = _bind(_keeps_lock, "wasmtime_error_message", None, _POINTER, _POINTER)
error_exit_status = _bind(
    _keeps_lock, "wasmtime_error_exit_status", ctypes.c_bool, _POINTER, _POINTER
)
trap_delete = _bind(_keeps_lock, "wasm_trap_delete", None, _POINTER)
trap_message = _bind(_keeps_lock, "wasm_trap_message", None, _POINTER, _POINTER)
trap_code = _bind(_keeps_lock, "wasmtime_trap_code", ctypes.c_bool, _POINTER, _POINTER)


class Scratch:
    """Memory that the C API writes its results to; reused from call to call."""

    __slots__ = (
        "_error", "_extern", "_instance", "_trap",
        "error", "extern", "function", "instance", "trap",
    )  # fmt: skip

    def __init__(self) -> None:
        self._instance = _ffi.wasmtime_instance_t()
        self._extern = _ffi.wasmtime_extern_t()
        self._trap = ctypes.c_void_p()
        self._error = ctypes.c_void_p()
        self.instance = ctypes.addressof(self._instance)
        self.extern = ctypes.addressof(self._extern)
        self.function = self.extern + _ffi.wasmtime_extern_t.of.offset
        self.trap = ctypes.addressof(self._trap)
        self.error = ctypes.addressof(self._error)

    def take_failure(self) -> tuple[int, int]:
        """Return the (trap, error) pointers of the last call and forget them."""
        trap, error = self._trap.value or 0, self._error.value or 0
        self._trap.value = self._error.value = None
        return trap, error


def text_of(pointer: int, message: Callable[..., Any]) -> str:
    """Return the text that `error_message` or `trap_message` gives for `pointer`."""
    vector = _ffi.wasm_byte_vec_t()
    address = ctypes.addressof(vector)
    message(pointer, address)
    text = ctypes.string_at(vector.data, vector.size)
    byte_vec_delete(address)
    return text.rstrip(b"\0").decode("utf-8", "replace")


def set_stdin(config: int, data: bytes) -> None:
    """Give the WASI `config` a copy of `data` as its stdin."""
    vector = _ffi.wasm_byte_vec_t()
    address = ctypes.addressof(vector)
    byte_vec_new(address, len(data), data)
    wasi_config_set_stdin_bytes(config, address)  # takes the vector


def address_of(managed: Any) -> int:
    """Return the C pointer inside one of the high-level package's objects."""
    return ctypes.cast(managed.ptr(), ctypes.c_void_p).value or 0
