"""Modules that mean harm, each with the answer that is promised to it.

Every entry goes the way of a stranger's module: inspected and compiled as the
builder does it, loaded into a keeper, called. `REFUSED` never get past the
builder, `ANSWERED` run and are answered in words, `STUCK` cost their own
process and nobody else's. Add an attack here and it is held to all of that.
"""

from typing import Final

import msgspec
import wasmtime

from tests.services.builder import wasm

WASI: Final = {
    "clock_time_get": "(param i32 i64 i32)",
    "environ_get": "(param i32 i32)",
    "fd_allocate": "(param i32 i64 i64)",
    "fd_close": "(param i32)",
    "fd_fdstat_set_flags": "(param i32 i32)",
    "fd_filestat_set_size": "(param i32 i64)",
    "fd_prestat_get": "(param i32 i32)",
    "fd_pwrite": "(param i32 i32 i32 i64 i32)",
    "fd_read": "(param i32 i32 i32 i32)",
    "fd_renumber": "(param i32 i32)",
    "fd_write": "(param i32 i32 i32 i32)",
    "path_open": "(param i32 i32 i32 i32 i32 i64 i64 i32 i32)",
    "path_symlink": "(param i32 i32 i32 i32 i32)",
    "poll_oneoff": "(param i32 i32 i32 i32)",
    "proc_raise": "(param i32)",
    "random_get": "(param i32 i32)",
    "sched_yield": "",
    "sock_accept": "(param i32 i32 i32)",
    "sock_recv": "(param i32 i32 i32 i32 i32 i32)",
    "sock_send": "(param i32 i32 i32 i32 i32)",
    "sock_shutdown": "(param i32 i32)",
}
"""Parameters of the functions that attacks call (wasi_snapshot_preview1); all return an errno."""

BADF: Final = "8"
"""`errno` of WASI: bad descriptor."""
PAGE: Final = '(memory (export "memory") 1)'


class Hostile(msgspec.Struct, frozen=True):
    """One module and what it is told: `says` is in the refusal or the answer's `error`."""

    name: str
    module: bytes
    says: str | None
    """None for a success, which some attacks are: they are given nothing and end well."""
    body: bytes = b""
    """Of the request."""
    status: int = 200
    """Of the answer. 200 with `status` 1 in the JSON for what ran and failed."""


def calling(*functions: str, body: str, before: str = PAGE) -> bytes:
    """A command whose `_start` is `body`, with WASI functions by name, and `$exit`."""
    imports = '(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))'
    for function in functions:
        imports += (
            f'(import "wasi_snapshot_preview1" "{function}"'
            f" (func ${function} {WASI[function]} (result i32)))"
        )
    return bytes(
        wasmtime.wat2wasm(f'(module {imports} {before} (func $main (export "_start") {body}))')
    )


def errno(function: str, *arguments: str, before: str = PAGE) -> bytes:
    """A command that makes one call and exits with the errno it got."""
    given = " ".join(f"({'i64' if a.endswith('L') else 'i32'}.const {a.rstrip('L')})"
                     for a in arguments)  # fmt: skip
    return calling(function, body=f"(call $exit (call ${function} {given}))", before=before)


def forever(*functions: str, body: str, before: str = PAGE) -> bytes:
    return calling(*functions, body=f"(loop {body} (br 0))", before=before)


def path_open(path: str) -> bytes:
    """Try every descriptor up to 64 as a directory to open `path` from; exit with 99 if one is."""
    return calling(
        "path_open",
        body=f"""(local $fd i32)
        (loop
          (if (i32.eqz (call $path_open (local.get $fd) (i32.const 1) (i32.const 16)
              (i32.const {len(path)}) (i32.const 0) (i64.const 2) (i64.const 2) (i32.const 0)
              (i32.const 8)))
            (then (call $exit (i32.const 99))))
          (br_if 0 (i32.lt_u (local.tee $fd (i32.add (local.get $fd) (i32.const 1)))
            (i32.const 64))))""",
        before=f'{PAGE} (data (i32.const 16) "{path}")',
    )


def any_socket() -> bytes:
    """Try every descriptor up to 4096 as a socket, in each way; exit with 99 if one is."""
    ways = (
        "accept (local.get $fd) (i32.const 0) (i32.const 8)",
        "recv (local.get $fd) {one} (i32.const 0) (i32.const 8) (i32.const 12)",
        "send (local.get $fd) {one} (i32.const 0) (i32.const 8)",
        "shutdown (local.get $fd) (i32.const 2)",
    )
    one = "(i32.const 0) (i32.const 1)"
    tries = "".join(
        f"(if (i32.eqz (call $sock_{way.format(one=one)})) (then (call $exit (i32.const 99))))"
        for way in ways
    )
    return calling(
        "sock_accept", "sock_recv", "sock_send", "sock_shutdown",
        body=f"""(local $fd i32)
        (loop
          {tries}
          (br_if 0 (i32.lt_u (local.tee $fd (i32.add (local.get $fd) (i32.const 1)))
            (i32.const 4096))))""",
        before=IOVEC,
    )  # fmt: skip


def exits(code: int) -> bytes:
    return calling(body=f"(call $exit (i32.const {code}))")


IOVEC: Final = f'{PAGE} (data (i32.const 0) "\\10\\00\\00\\00\\00\\01\\00\\00")'
"""One I/O vector at 0: 256 bytes from 16 on."""


REFUSED: Final = (
    Hostile("nothing", b"", "the module is empty"),
    Hostile("component", b"\0asm\x0d\0\x01\0", "this is a component"),
    Hostile("forged-precompiled-module", b"\x7fELF\x02\x01\x01\0" * 99, "precompiled by wasmtime"),
    Hostile("trailing-garbage", wasm.module() + b"\x7fgarbage", "unknown kind 127"),
    Hostile("unknown-import", wasm.module([wasm.function_import("env", "system")]), "env.system"),
    Hostile("connect-as-in-other-runtimes", wasm.module([wasm.function_import(
        "wasi_snapshot_preview1", "sock_connect")]), "sock_connect"),
    Hostile("open-a-socket", wasm.module([wasm.function_import(
        "wasi_snapshot_preview1", "sock_open")]), "sock_open"),
    Hostile("sockets-of-preview-2", wasm.module([wasm.function_import(
        "wasi:sockets/tcp@0.2.0", "[method]tcp-socket.start-connect")]), "wasi:sockets/tcp"),
    Hostile("name-that-is-not-utf8", wasm.module(exports={"_start": (0, 0)}).replace(
        b"_start", b"_st\xffrt"), "UTF-8"),
    Hostile("shared-memory", wasm.module(memory=b"\x03\x01\x02"), "threads"),
    Hostile("threads", wasm.module([wasm.function_import("wasi", "thread-spawn")]), "threads"),
    Hostile("memory64", wasm.module(memory=b"\x04\x01"), ""),
    Hostile("4-gib-at-start", wasm.module(memory=b"\x00" + wasm.number(65536)), "4096.0 MiB"),
    Hostile("a-million-imports", wasm.MAGIC + wasm.section(2, wasm.number(1_000_000)), "entries"),
    Hostile("huge-locals", wasm.module(
        body=wasm.vector([wasm.number(2**32 - 1) + b"\x7f"]) + b"\x0b"), "local"),
    Hostile("two-huge-locals", wasm.module(
        body=wasm.vector([wasm.number(2**31) + b"\x7f"] * 4) + b"\x0b"), "local"),
    Hostile("compile-bomb", wasm.compile_bomb(6000), "compiling the module takes more than"),
    Hostile("code-that-underflows", wasm.module(body=b"\x00\x1a\x0b"), "type mismatch"),
    Hostile("section-beyond-the-end", wasm.MAGIC + b"\x01\xff\xff\xff\xff\x0f", "cut short"),
    Hostile("start-with-parameters", wasm.module().replace(
        b"\x01\x04\x01\x60\x00\x00", b"\x01\x05\x01\x60\x01\x7f\x00"), "without parameters"),
)  # fmt: skip
"""What the builder refuses, in words."""

ANSWERED: Final = (
    # Time.
    Hostile("endless-loop", forever(body=""), "timed out after", status=504),
    Hostile("endless-start", bytes(wasmtime.wat2wasm(
        f'(module {PAGE} (func $f (loop br 0)) (start $f) (func (export "_start")))')),
        "timed out after", status=504),
    Hostile("endless-fill", forever(
        body="(memory.fill (i32.const 0) (i32.const 1) (i32.const 30000000))",
        before='(memory (export "memory") 500)'), "timed out after", status=504),
    Hostile("random-abuse", forever("random_get",
        body="(drop (call $random_get (i32.const 0) (i32.const 65536)))"),
        "timed out after", status=504),
    Hostile("clock-abuse", forever("clock_time_get",
        body="(drop (call $clock_time_get (i32.const 0) (i64.const 1) (i32.const 8)))"),
        "timed out after", status=504),
    Hostile("yield-abuse", forever("sched_yield", body="(drop (call $sched_yield))"),
        "timed out after", status=504),
    Hostile("read-abuse", forever("fd_read", before=IOVEC,
        body="(drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 512)))"),
        "timed out after", status=504),
    # Memory.
    Hostile("deep-recursion", calling(body="(call $main)"), "call stack exhausted"),
    Hostile("deep-recursion-through-a-table", calling(body="(call_indirect (i32.const 0))",
        before=f"{PAGE} (table funcref (elem $main))"), "call stack exhausted"),
    Hostile("deep-recursion-of-large-frames", wasm.module(
        body=wasm.vector([wasm.number(40_000) + b"\x7e"]) + b"\x10\x00\x0b"),
        "call stack exhausted"),
    Hostile("memory-growth", calling(
        body="(loop (br_if 0 (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable"),
        "unreachable"),
    Hostile("table-growth", calling(
        body="(loop (br_if 0 (i32.ne (table.grow (ref.null func) (i32.const 10000))"
        " (i32.const -1)))) unreachable",
        before=f"{PAGE} (table 1 funcref)"), "unreachable"),
    Hostile("giant-table", calling(body="", before=f"{PAGE} (table 50000000 funcref)"),
        "table"),
    Hostile("data-beyond-memory", calling(body="",
        before=f'{PAGE} (data (i32.const 65530) "0123456789")'), "out of bounds"),
    Hostile("giant-data", calling(body="", before='(memory (export "memory") 256)' +
        "".join(f'(data (i32.const {n * 4096}) "{"x" * 4096}")' for n in range(1000))), None),
    Hostile("many-functions", wasm.module(bodies=50_000), None),
    # Output.
    Hostile("output-flood", forever("fd_write", before=IOVEC,
        body="(drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 512)))"),
        "output exceeds"),
    Hostile("stderr-flood", forever("fd_write", before=IOVEC,
        body="(drop (call $fd_write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 512)))"),
        "timed out after", status=504),
    Hostile("output-that-is-not-utf8", calling("fd_write",
        body="(drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 512)))",
        before=f'{PAGE} (data (i32.const 0) "\\10\\00\\00\\00\\04\\00\\00\\00")'
        ' (data (i32.const 16) "\\ff\\c0\\80\\ed")'), None),
    Hostile("output-made-sparse", errno("fd_filestat_set_size", "1", "1152921504606846976L"),
        "exited with code"),
    Hostile("output-allocated", errno("fd_allocate", "1", "0L", "1152921504606846976L"),
        "exited with code"),
    Hostile("output-written-far-out", calling("fd_pwrite", before=IOVEC,
        body="(call $exit (call $fd_pwrite (i32.const 1) (i32.const 0) (i32.const 1)"
        " (i64.const 1152921504606846976) (i32.const 512)))"), "exited with code"),
    # WASI with arguments that make no sense.
    Hostile("iovec-beyond-memory", errno("fd_write", "1", "-8", "9", "-4"), ""),
    Hostile("two-billion-iovecs", errno("fd_write", "1", "0", "2147483647", "512"), ""),
    Hostile("random-beyond-memory", errno("random_get", "65000", "65536"), ""),
    Hostile("environment-beyond-memory", errno("environ_get", "-1", "-1"), None),
    Hostile("raise-a-signal", errno("proc_raise", "9"), ""),
    Hostile("close-everything", calling("fd_close", body="""(local $fd i32)
        (loop (drop (call $fd_close (local.get $fd)))
          (br_if 0 (i32.lt_u (local.tee $fd (i32.add (local.get $fd) (i32.const 1)))
            (i32.const 4096))))"""), None),
    Hostile("stdout-becomes-stderr", calling("fd_renumber", body="""
        (drop (call $fd_renumber (i32.const 2) (i32.const 1)))
        (drop (call $fd_renumber (i32.const 0) (i32.const 4096)))"""), None),
    Hostile("nonblocking-stdout", errno("fd_fdstat_set_flags", "1", "5"), ""),
    # The world outside.
    Hostile("a-preopened-directory", errno("fd_prestat_get", "3", "0"), f"code {BADF}"),
    Hostile("path-traversal", path_open("../../../../etc/passwd"), None),
    Hostile("absolute-path", path_open("/proc/self/environ"), None),
    Hostile("symbolic-link", errno("path_symlink", "16", "4", "3", "16", "4"), f"code {BADF}"),
    Hostile("accept-on-the-listener", errno("sock_accept", "3", "0", "0"), f"code {BADF}"),
    Hostile("receive-from-anyone", errno("sock_recv", "4", "0", "1", "0", "8", "12"),
        f"code {BADF}"),
    Hostile("send-to-anyone", errno("sock_send", "5", "0", "1", "0", "8"), f"code {BADF}"),
    Hostile("any-descriptor-as-a-socket", any_socket(), None),
    Hostile("shut-the-listener", errno("sock_shutdown", "3", "2"), f"code {BADF}"),
    # Exit codes. wasmtime takes none above 125 and says so.
    *(Hostile(f"exit-{code}", exits(code), says) for code, says in
      ((0, None), (1, "code 1"), (125, "code 125"), (126, "exit"), (255, "exit"), (256, "exit"),
       (2**31 - 1, "exit"), (-1, "exit"))),
    # Requests.
    Hostile("argument-bomb", exits(0), "argument", status=400,
        body=b'{"args":[' + b'"x",' * 1_000_000 + b'"x"]}'),
    Hostile("deeply-nested-request", exits(0), "", status=400, body=b"[" * 100_000),
    Hostile("argument-with-a-nul", exits(0), "NUL", status=400, body=b'{"args":["a\\u0000b"]}'),
    Hostile("long-argument", exits(0), None, body=b'{"args":["' + b"x" * 4_000_000 + b'"]}'),
)  # fmt: skip
"""What runs and is answered."""

_DAY_NS: Final = 24 * 3600 * 10**9
_DAY: Final = "".join(f"\\{byte:02x}" for byte in _DAY_NS.to_bytes(8, "little"))
STUCK: Final = (
    Hostile("sleep-for-a-day", calling("poll_oneoff",
        body="(drop (call $poll_oneoff (i32.const 0) (i32.const 64) (i32.const 1)"
        " (i32.const 128)))",
        # One subscription: a clock, monotonic, relative, in a day.
        before=f'{PAGE} (data (i32.const 16) "\\01")'
        f' (data (i32.const 24) "{_DAY}")'),
        "stuck in a host call past"),
)  # fmt: skip
"""What sits in a host call, where no deadline of wasmtime's reaches it."""
