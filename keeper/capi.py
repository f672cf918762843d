"""The functions of wasmtime's C API that the keeper needs, bound for speed.

The high-level Python API rebuilds types and wrappers on every call, which
costs more than the sandbox itself. Even its import costs: 23 ms of a keeper's
start, and pages that every child would copy. So it is left to the compiler
(see `module`). Cheap functions are bound through `ctypes.PyDLL`: they keep the
interpreter lock, since giving it up and taking it back costs more than they
do. Only `call_future_poll`, which runs user code, is bound through
`ctypes.CDLL`: it must give up the lock, or the ticker thread could never
advance the epoch that ends its slice.

Pointers are plain integers (0 is NULL). Names are those of the headers of
wasmtime 50, without the prefix.
"""

import ctypes
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

_POINTER = ctypes.c_void_p
_SIZE = ctypes.c_size_t
_TEXT = ctypes.c_char_p
_BOOL = ctypes.c_bool

INSTANCE_BYTES: Final = 16
"""Size of `wasmtime_instance_t`."""
EXTERN_BYTES: Final = 32
"""Size of `wasmtime_extern_t`."""
EXTERN_OFFSET: Final = 8
"""Of what the extern is, in it."""


def _library() -> str:
    # The package's place, without importing it.
    spec = importlib.util.find_spec("wasmtime")
    if spec is None or spec.origin is None:
        raise ImportError("the package wasmtime is not installed")
    return str(next(Path(spec.origin).parent.glob("linux-*/_libwasmtime.so")))


_PATH = _library()
_keeps_lock = ctypes.PyDLL(_PATH)
_drops_lock = ctypes.CDLL(_PATH)


class _Bytes(ctypes.Structure):
    """`wasm_byte_vec_t`."""

    _fields_ = [("size", _SIZE), ("data", _POINTER)]


class EngineError(Exception):
    """What wasmtime says went wrong."""


def _bind(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    function = library[name]
    function.restype = result
    function.argtypes = arguments
    return function


def _bind_setting(name: str, kind: Any) -> Callable[..., Any]:
    return _bind(_keeps_lock, name, None, _POINTER, kind)


config_new = _bind(_keeps_lock, "wasm_config_new", _POINTER)
config_epoch_interruption_set = _bind_setting("wasmtime_config_epoch_interruption_set", _BOOL)
config_parallel_compilation_set = _bind_setting("wasmtime_config_parallel_compilation_set", _BOOL)
config_max_wasm_stack_set = _bind_setting("wasmtime_config_max_wasm_stack_set", _SIZE)
config_wasm_threads_set = _bind_setting("wasmtime_config_wasm_threads_set", _BOOL)
config_wasm_memory64_set = _bind_setting("wasmtime_config_wasm_memory64_set", _BOOL)
pool_new = _bind(_keeps_lock, "wasmtime_pooling_allocation_config_new", _POINTER)
pool_delete = _bind(_keeps_lock, "wasmtime_pooling_allocation_config_delete", None, _POINTER)
config_pool_set = _bind_setting("wasmtime_pooling_allocation_strategy_set", _POINTER)


def pool_set(pool: int, option: str, value: int) -> None:
    """Set the size `option` of a pool's configuration."""
    _bind_setting(f"wasmtime_pooling_allocation_config_{option}_set", _SIZE)(pool, value)


engine_new = _bind(_keeps_lock, "wasm_engine_new_with_config", _POINTER, _POINTER)
engine_increment_epoch = _bind(_keeps_lock, "wasmtime_engine_increment_epoch", None, _POINTER)
linker_new = _bind(_keeps_lock, "wasmtime_linker_new", _POINTER, _POINTER)
linker_define_wasi = _bind(_keeps_lock, "wasmtime_linker_define_wasi", _POINTER, _POINTER)
linker_instantiate_pre = _bind(
    _keeps_lock, "wasmtime_linker_instantiate_pre", _POINTER, _POINTER, _POINTER, _POINTER
)
module_new = _bind(_keeps_lock, "wasmtime_module_new", _POINTER, _POINTER, _TEXT, _SIZE, _POINTER)
module_serialize = _bind(_keeps_lock, "wasmtime_module_serialize", _POINTER, _POINTER, _POINTER)
module_deserialize = _bind(
    _keeps_lock, "wasmtime_module_deserialize", _POINTER, _POINTER, _TEXT, _SIZE, _POINTER
)
module_deserialize_file = _bind(
    _keeps_lock, "wasmtime_module_deserialize_file", _POINTER, _POINTER, _TEXT, _POINTER
)
module_delete = _bind(_keeps_lock, "wasmtime_module_delete", None, _POINTER)

wasi_config_new = _bind(_keeps_lock, "wasi_config_new", _POINTER)
wasi_config_delete = _bind(_keeps_lock, "wasi_config_delete", None, _POINTER)
wasi_config_set_argv = _bind(_keeps_lock, "wasi_config_set_argv", _BOOL, _POINTER, _SIZE, _POINTER)
wasi_config_set_env = _bind(
    _keeps_lock, "wasi_config_set_env", _BOOL, _POINTER, _SIZE, _POINTER, _POINTER
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
    _BOOL,
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
call_future_poll = _bind(_drops_lock, "wasmtime_call_future_poll", _BOOL, _POINTER)
call_future_delete = _bind(_keeps_lock, "wasmtime_call_future_delete", None, _POINTER)

error_delete = _bind(_keeps_lock, "wasmtime_error_delete", None, _POINTER)
error_message = _bind(_keeps_lock, "wasmtime_error_message", None, _POINTER, _POINTER)
error_exit_status = _bind(_keeps_lock, "wasmtime_error_exit_status", _BOOL, _POINTER, _POINTER)
trap_delete = _bind(_keeps_lock, "wasm_trap_delete", None, _POINTER)
trap_message = _bind(_keeps_lock, "wasm_trap_message", None, _POINTER, _POINTER)


class Scratch:
    """Memory that the C API writes its results to; reused from call to call."""

    __slots__ = (
        "_error", "_extern", "_instance", "_trap",
        "error", "extern", "function", "instance", "trap",
    )  # fmt: skip

    def __init__(self) -> None:
        self._instance = ctypes.create_string_buffer(INSTANCE_BYTES)
        self._extern = ctypes.create_string_buffer(EXTERN_BYTES)
        self._trap = _POINTER()
        self._error = _POINTER()
        self.instance = ctypes.addressof(self._instance)
        self.extern = ctypes.addressof(self._extern)
        self.function = self.extern + EXTERN_OFFSET
        self.trap = ctypes.addressof(self._trap)
        self.error = ctypes.addressof(self._error)

    def take_failure(self) -> tuple[int, int]:
        """Return the (trap, error) pointers of the last call and forget them."""
        trap, error = self._trap.value or 0, self._error.value or 0
        self._trap.value = self._error.value = None
        return trap, error


def taken(vector: _Bytes) -> bytes:
    """Return what is in a vector that the C API has filled, and free it."""
    data = ctypes.string_at(vector.data, vector.size)
    byte_vec_delete(ctypes.addressof(vector))
    return data


def text_of(pointer: int, message: Callable[..., Any]) -> str:
    """Return the text that `error_message` or `trap_message` gives for `pointer`."""
    vector = _Bytes()
    message(pointer, ctypes.addressof(vector))
    return taken(vector).rstrip(b"\0").decode("utf-8", "replace")


def must(error: int | None) -> None:
    """Check what a function returned that returns an error or NULL.

    Raises:
        EngineError: it was an error.
    """
    if error:
        text = text_of(error, error_message)
        error_delete(error)
        raise EngineError(text)


def made(function: Callable[..., Any], *arguments: Any) -> int:
    """Call a function whose last argument is where it puts a pointer; return the pointer.

    Raises:
        EngineError: it returned an error.
    """
    place = _POINTER()
    must(function(*arguments, ctypes.addressof(place)))
    return place.value or 0


def serialized(module: int) -> bytes:
    """Return the precompiled form of `module`.

    Raises:
        EngineError: it has none.
    """
    vector = _Bytes()
    must(module_serialize(module, ctypes.addressof(vector)))
    return taken(vector)


def set_stdin(config: int, data: bytes) -> None:
    """Give the WASI `config` a copy of `data` as its stdin."""
    vector = _Bytes()
    address = ctypes.addressof(vector)
    byte_vec_new(address, len(data), data)
    wasi_config_set_stdin_bytes(config, address)  # takes the vector


def address_of(managed: Any) -> int:
    """Return the C pointer inside one of the high-level package's objects."""
    return ctypes.cast(managed.ptr(), _POINTER).value or 0
