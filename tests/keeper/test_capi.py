"""The layouts that `keeper.capi` writes down are those of the installed wasmtime."""

import ctypes

from wasmtime import _ffi

from keeper import capi


def test_the_sizes_of_what_the_c_api_fills_in_are_right() -> None:
    assert ctypes.sizeof(_ffi.wasmtime_instance_t) == capi.INSTANCE_BYTES
    assert ctypes.sizeof(_ffi.wasmtime_extern_t) == capi.EXTERN_BYTES
    assert _ffi.wasmtime_extern_t.of.offset == capi.EXTERN_OFFSET
    assert ctypes.sizeof(_ffi.wasm_byte_vec_t) == ctypes.sizeof(capi._Bytes)


def test_the_library_is_the_package_s_own() -> None:
    assert str(_ffi.filename) == capi._PATH
