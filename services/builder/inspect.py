"""Says in words what a module's bytes are, before anything is spent on them.

A compiler tells its user "unknown import"; a person who uploaded a component,
a `.wat` file or a browser build needs to hear that, and what to do next. What
runs here is a wasm32-wasi preview 1 command: it imports functions of
`wasi_snapshot_preview1` and exports `_start`.

Pure, and safe on any bytes: see `binary`.
"""

from typing import Final

from schemas.specs import MIB
from services.builder.binary import HEADER_BYTES, Import, Module, read_module
from services.builder.errors import Rejected

WASI: Final = "wasi_snapshot_preview1"
WASI_FUNCTIONS: Final = frozenset(
    {
        "args_get", "args_sizes_get", "clock_res_get", "clock_time_get", "environ_get",
        "environ_sizes_get", "fd_advise", "fd_allocate", "fd_close", "fd_datasync",
        "fd_fdstat_get", "fd_fdstat_set_flags", "fd_fdstat_set_rights", "fd_filestat_get",
        "fd_filestat_set_size", "fd_filestat_set_times", "fd_pread", "fd_prestat_dir_name",
        "fd_prestat_get", "fd_pwrite", "fd_read", "fd_readdir", "fd_renumber", "fd_seek",
        "fd_sync", "fd_tell", "fd_write", "path_create_directory", "path_filestat_get",
        "path_filestat_set_times", "path_link", "path_open", "path_readlink",
        "path_remove_directory", "path_rename", "path_symlink", "path_unlink_file", "poll_oneoff",
        "proc_exit", "proc_raise", "random_get", "sched_yield", "sock_accept", "sock_recv",
        "sock_send", "sock_shutdown",
    }
)  # fmt: skip
"""What wasmtime's linker defines for preview 1."""

REBUILD: Final = "build it for wasm32-wasi (preview 1)"


def inspect(data: bytes, *, max_bytes: int, max_memory_bytes: int) -> Module:
    """Return what the module `data` declares, if it is one that can run here.

    `max_bytes` bounds the module itself, `max_memory_bytes` its memory at start.

    Raises:
        Rejected: it cannot; the message says what `data` is and what to do.
    """
    if len(data) > max_bytes:
        raise Rejected(f"the module has {_mib(len(data))}; at most {_mib(max_bytes)} are taken")
    _check_header(data)
    module = read_module(data)
    _check_imports(module)
    _check_exports(module)
    for memory in module.memories:
        if memory.shared:
            raise Rejected(
                "the module uses threads (a shared memory), which no function here gets; "
                f"{REBUILD} without threads"
            )
    if module.memory_bytes > max_memory_bytes:
        raise Rejected(
            f"the module asks for {_mib(module.memory_bytes)} of memory at its start; "
            f"at most {_mib(max_memory_bytes)} can be given"
        )
    return module


def _check_header(data: bytes) -> None:
    """Refuse what is no core module, and say what it is instead."""
    if not data:
        raise Rejected("the module is empty (0 bytes); was the file written completely?")
    if data[:4] != b"\0asm"[: len(data)]:
        raise Rejected(_what_else(data))
    if len(data) < HEADER_BYTES:
        raise Rejected(f"the module is cut short: it ends after {len(data)} of its 8 header bytes")
    if data[4:8] == b"\x01\x00\x00\x00":
        return
    if data[6:8] == b"\x01\x00":
        raise Rejected(
            "this is a component, and a core module is expected: "
            f"`wasi:http` components come later; for now {REBUILD}"
        )
    version = int.from_bytes(data[4:8], "little")
    raise Rejected(f"the module says it is WebAssembly version {version}; version 1 is expected")


def _what_else(data: bytes) -> str:
    """Return a sentence on what `data`, which is no WebAssembly, seems to be."""
    for magic, what in (
        (b"\x7fELF", "a native program or a module precompiled by wasmtime (ELF)"),
        (b"\x1f\x8b", "a gzip archive"),
        (b"PK\x03\x04", "a zip archive"),
        (b"MZ", "a Windows program"),
        (b"BC\xc0\xde", "LLVM bitcode"),
        (b"#!", "a script"),
    ):
        if data.startswith(magic):
            return f"this is {what}, not a WebAssembly module; {REBUILD}"
    head = data[:200]
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        # A sequence that is merely cut by the slice is still text.
        text = head[: error.start].decode() if error.start > len(head) - 4 else ""
    if not text or not all(c.isprintable() or c.isspace() for c in text):
        return (
            f"this is not a WebAssembly module: it starts with {data[:4].hex(' ')}, "
            "a module with 00 61 73 6d"
        )
    if text.lstrip().startswith(("(module", "(component", ";;", "(;")):
        return "this is WebAssembly text (.wat), not a module; convert it with `wat2wasm` first"
    start = " ".join(text.split())[:40]
    return f"this is text, not a WebAssembly module: “{start}…”"


def _check_imports(module: Module) -> None:
    strange = [
        item
        for item in module.imports
        if not (item.module == WASI and item.kind == "function" and item.name in WASI_FUNCTIONS)
    ]
    if not strange:
        return
    named = ", ".join(f"`{_short(item.path)}`" for item in strange[:3])
    more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
    raise Rejected(
        f"the module imports {named}{more}, which no function here gets; {_advice(strange)}"
    )


def _advice(strange: list[Import]) -> str:
    """Return what to do about imports nobody gets, judged by who usually emits them."""
    modules = {item.module for item in strange}
    names = {item.name for item in strange}
    if "thread-spawn" in names or any(item.memory and item.memory.shared for item in strange):
        return f"it uses threads: {REBUILD} without threads"
    if "wasi_unstable" in modules:
        return f"`wasi_unstable` is WASI before preview 1: {REBUILD} with a current toolchain"
    if any(module.startswith("wasi:") for module in modules):
        return f"these are interfaces of components (preview 2): {REBUILD}"
    if any("wbindgen" in module or module == "wbg" for module in modules):
        return "wasm-bindgen built it for JavaScript: build for the target wasm32-wasip1"
    if modules & {"go", "gojs"}:
        return "Go built it for JavaScript: build with GOOS=wasip1 GOARCH=wasm"
    if any(
        name.startswith(("emscripten_", "_emscripten", "invoke_", "__syscall")) for name in names
    ):
        return f"Emscripten built it for JavaScript: {REBUILD} with wasi-sdk, or -sSTANDALONE_WASM"
    if modules == {WASI}:
        return "they are not part of WASI preview 1: only an extended runtime has them"
    return f"functions get `{WASI}` and nothing else"


def _check_exports(module: Module) -> None:
    start = module.exports.get("_start")
    if start is None:
        names = [_short(name) for name in module.exports if name not in ("memory", "_initialize")]
        shown = ", ".join(f"`{name}`" for name in names[:5]) or "nothing to call"
        more = " …" if len(names) > 5 else ""
        raise Rejected(
            f"the module is a library (reactor), not a command: it exports {shown}{more} "
            "but no `_start`; build it as a program with a `main`"
        )
    if start != "function":
        raise Rejected(f"the module's `_start` is a {start}; it must be a function")
    if module.imports and module.exports.get("memory") != "memory":
        raise Rejected(
            "the module exports no memory named `memory`, through which WASI answers; "
            "keep the linker's default exports"
        )


def _short(name: str) -> str:
    return f"{name[:80]}…" if len(name) > 80 else name


def _mib(size: int) -> str:
    return f"{size / MIB:.1f} MiB" if size >= MIB // 10 else f"{size} bytes"
