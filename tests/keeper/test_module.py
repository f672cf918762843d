import pytest
import wasmtime

from keeper.engine import ModuleError
from keeper.module import compile_module, new_compiler


@pytest.mark.parametrize(
    ("wasm", "says"),
    [
        (b"hello", "not a WebAssembly module"),
        (b"", "not a WebAssembly module"),
        (b"\0asm\x0d\0\1\0", "component"),
        (b"\0asm\1\0\0\0\x01\xff", "not valid"),
        (b"\0asm\1\0\0\0", "_start"),
        (wasmtime.wat2wasm('(module (func (export "_start") (param i32)))'), "without parameters"),
        (
            wasmtime.wat2wasm('(module (import "env" "foo" (func)) (func (export "_start")))'),
            "env.foo, which no function here gets",
        ),
        (
            wasmtime.wat2wasm('(module (memory 1 1 shared) (func (export "_start")))'),
            "not valid",
        ),
    ],
)
def test_a_module_that_cannot_run_here_is_refused_in_words(wasm: bytes, says: str) -> None:
    with pytest.raises(ModuleError) as caught:
        compile_module(new_compiler(), bytes(wasm))
    assert says in str(caught.value)
