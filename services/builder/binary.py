"""Reads from a module's bytes what it declares: imports, exports, memories.

Just enough of the binary format (WebAssembly core specification, chapter 5) to
judge what a module asks for; whether function bodies are valid is the
compiler's business. The bytes are hostile: no length in them is trusted, every
count has a bound, each byte is looked at once at most, and nothing but
`Rejected` is raised.
"""

from typing import Final

import msgspec

from services.builder.errors import Rejected

PAGE_BYTES: Final = 65536
HEADER_BYTES: Final = 8

MAX_ITEMS: Final = 100_000
"""Entries of one section that are read. wasmtime allows more; no real module has more."""
MAX_NAME_BYTES: Final = 100_000
"""The bound of wasmtime's own parser (`MAX_WASM_STRING_SIZE`)."""

SECTIONS: Final = (
    "custom", "type", "import", "function", "table", "memory", "global", "export", "start",
    "element", "code", "data", "data count", "tag",
)  # fmt: skip
KINDS: Final = ("function", "table", "memory", "global", "tag")


class Memory(msgspec.Struct, frozen=True):
    """The limits of a linear memory, in bytes."""

    min_bytes: int
    max_bytes: int | None
    shared: bool


class Import(msgspec.Struct, frozen=True):
    """Something a module wants from its host."""

    module: str
    name: str
    kind: str
    memory: Memory | None = None

    @property
    def path(self) -> str:
        """Module and name as people write them."""
        return f"{self.module}.{self.name}"


class Module(msgspec.Struct, frozen=True):
    """What a module declares of itself."""

    imports: tuple[Import, ...]
    exports: dict[str, str]
    """Kind by name."""
    memories: tuple[Memory, ...]
    """Its own; imported ones are in `imports`."""

    @property
    def memory_bytes(self) -> int:
        """Linear memory that the module has before its first instruction."""
        return sum(memory.min_bytes for memory in self.memories)


class Reader:
    """A cursor over one section, in absolute offsets, that never leaves it."""

    def __init__(self, data: bytes, start: int, end: int, where: str) -> None:
        self.data = data
        self.at = start
        self.end = end
        self.where = where

    def malformed(self, why: str) -> Rejected:
        """Return the error that says where reading stopped."""
        return Rejected(f"the module is damaged: {why} in its {self.where} at byte {self.at}")

    def byte(self) -> int:
        """Read one byte."""
        if self.at >= self.end:
            raise self.malformed("data ends too early")
        value = self.data[self.at]
        self.at += 1
        return value

    def number(self, bits: int = 32) -> int:
        """Read an unsigned LEB128 number of at most `bits` bits."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> bits:
                    raise self.malformed(f"a number beyond {bits} bits")
                return value
            shift += 7
            if shift >= bits:
                raise self.malformed(f"a number beyond {bits} bits")

    def count(self) -> int:
        """Read the length of a vector, bounded by `MAX_ITEMS`."""
        value = self.number()
        if value > MAX_ITEMS:
            raise Rejected(
                f"the module's {self.where} has {value} entries; at most {MAX_ITEMS} are read"
            )
        return value

    def name(self) -> str:
        """Read a UTF-8 name."""
        length = self.number()
        if length > min(self.end - self.at, MAX_NAME_BYTES):
            raise self.malformed("a name that is too long")
        try:
            text = self.data[self.at : self.at + length].decode()
        except UnicodeDecodeError as error:
            raise self.malformed("a name that is not UTF-8") from error
        self.at += length
        return text

    def value_type(self) -> None:
        """Skip a value or reference type; typed references carry a heap type."""
        if self.byte() in (0x63, 0x64):
            self.number(33)

    def memory(self) -> Memory:
        """Read memory (or table) limits; a page is 64 KiB unless it says otherwise."""
        flags = self.byte()
        if flags > 0b1111:
            raise self.malformed("unknown limits")
        bits = 64 if flags & 0b100 else 32
        least = self.number(bits)
        most = self.number(bits) if flags & 0b1 else None
        page = 1 << min(self.number(), 16) if flags & 0b1000 else PAGE_BYTES
        return Memory(least * page, None if most is None else most * page, bool(flags & 0b10))


def read_module(data: bytes) -> Module:
    """Read the sections that tell what a module imports, exports and needs."""
    imports: tuple[Import, ...] = ()
    exports: dict[str, str] = {}
    memories: tuple[Memory, ...] = ()
    at = HEADER_BYTES
    while at < len(data):
        section = Reader(data, at, len(data), "section header")
        code = section.byte()
        if code >= len(SECTIONS):
            raise Rejected(
                f"the module has a section of unknown kind {code} at byte {at}: "
                "bytes were appended to it, or it uses a proposal that is not supported"
            )
        size = section.number()
        name = f"{SECTIONS[code]} section"
        if size > len(data) - section.at:
            raise Rejected(
                f"the module is cut short: its {name} at byte {at} has {size} bytes, "
                f"and the file ends after {len(data) - section.at} of them"
            )
        body = Reader(data, section.at, section.at + size, name)
        match SECTIONS[code]:
            case "import":
                imports += tuple(_import(body) for _ in range(body.count()))
            case "memory":
                memories += tuple(body.memory() for _ in range(body.count()))
            case "export":
                for _ in range(body.count()):
                    export = body.name()
                    exports[export] = _kind(body)
                    body.number()
        at = body.end
    return Module(imports, exports, memories)


def _kind(reader: Reader) -> str:
    code = reader.byte()
    if code >= len(KINDS):
        raise reader.malformed(f"an item of unknown kind {code}")
    return KINDS[code]


def _import(reader: Reader) -> Import:
    module, name, kind = reader.name(), reader.name(), _kind(reader)
    memory = None
    match kind:
        case "function":
            reader.number()
        case "table":
            reader.value_type()
            reader.memory()
        case "memory":
            memory = reader.memory()
        case "global":
            reader.value_type()
            reader.byte()
        case "tag":
            reader.byte()
            reader.number()
    return Import(module, name, kind, memory)
