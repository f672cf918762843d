"""Builds small WebAssembly modules byte by byte: what no compiler would emit, tests need too."""

MAGIC = b"\0asm\1\0\0\0"
NOTHING_TO_NOTHING = b"\x60\x00\x00"


def number(value: int) -> bytes:
    """Unsigned LEB128."""
    out = bytearray()
    while True:
        byte, value = value & 0x7F, value >> 7
        if not value:
            return bytes([*out, byte])
        out.append(byte | 0x80)


def name(text: str) -> bytes:
    return number(len(text.encode())) + text.encode()


def vector(items: list[bytes]) -> bytes:
    return number(len(items)) + b"".join(items)


def section(code: int, body: bytes) -> bytes:
    return bytes([code]) + number(len(body)) + body


def function_import(module: str, item: str) -> bytes:
    return name(module) + name(item) + b"\x00\x00"


def module(
    imports: list[bytes] | None = None,
    exports: dict[str, tuple[int, int]] | None = None,
    memory: bytes | None = b"\x00\x01",
    body: bytes = b"\x00\x0b",
    bodies: int = 1,
) -> bytes:
    """A module of functions without parameters; by default a command that does nothing.

    `exports` are (kind, index) by name; `memory` its limits; `body` locals and code of each of
    `bodies` functions.
    """
    imports = imports or []
    first = sum(item[-2:] == b"\x00\x00" for item in imports)
    if exports is None:
        exports = {"_start": (0, first), "memory": (2, 0)}
    code = vector([number(len(body)) + body] * bodies)
    return (
        MAGIC
        + section(1, vector([NOTHING_TO_NOTHING]))
        + (section(2, vector(imports)) if imports else b"")
        + section(3, vector([b"\x00"] * bodies))
        + (section(5, vector([memory])) if memory is not None else b"")
        + section(7, vector([name(n) + bytes([k]) + number(i) for n, (k, i) in exports.items()]))
        + section(10, code)
    )


def compile_bomb(size: int) -> bytes:
    """A valid module whose compilation takes time and memory with the square of `size`.

    One loop of `size` branches, each setting one of `size` locals that all stay alive: every
    block passes every local on. 160 KB (size 10,000) cost Cranelift 3 GB and half a minute.
    """
    branches = b"".join(
        b"\x20" + number(n * 7919 % size)
        + b"\x04\x40\x20" + number(n * 104729 % size) + b"\x20" + number(n * 31 % size)
        + b"\x6a\x21" + number(n * 17 % size) + b"\x0b"
        for n in range(size)
    )  # fmt: skip
    locals_ = vector([number(size) + b"\x7f"])
    return module(body=locals_ + b"\x03\x40" + branches + b"\x20\x00\x0d\x00\x0b\x0b")
