import contextlib
import gzip
import io
import re
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.builder.errors import Rejected
from services.builder.layout import LAYER_TYPE
from services.builder.unpack import (
    Command,
    Config,
    Content,
    Manifest,
    Platform,
    choose,
    decode,
    file_name,
    find_module,
    named_file,
)

LIMIT = 1 << 20
DIGEST = "sha256:" + "0" * 64


def layer(files: dict[str, bytes | tarfile.TarInfo], *, packed: bool = True) -> tuple[str, bytes]:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                archive.addfile(content)
            else:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    data = out.getvalue()
    return LAYER_TYPE, gzip.compress(data) if packed else data


def link(kind: bytes, target: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo()
    entry.type = kind
    entry.linkname = target
    return entry


def refusal(layers: list[tuple[str, bytes]], wanted: str | None = None, limit: int = LIMIT) -> str:
    with pytest.raises(Rejected) as caught:
        find_module(layers, wanted, max_bytes=limit)
    return str(caught.value)


def config(
    entrypoint: list[str] | None = None, cmd: list[str] | None = None, folder: str = "/"
) -> Config:
    return Config(Command(entrypoint, cmd, folder))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (config(["/x.wasm"]), "x.wasm"),
        (config(["x.wasm", "-v"]), "x.wasm"),
        (config(None, ["/x.wasm"]), "x.wasm"),
        (config(["/x.wasm"], ["y.wasm"]), "x.wasm"),
        (config(["/bin/tool"]), "bin/tool"),
        (config(["wasmtime", "--dir=."], ["/app/x.wasm"]), "app/x.wasm"),
        (config(["x.wasm"], folder="/app"), "app/x.wasm"),
        (config(["/x.wasm"], folder="/app"), "x.wasm"),
        (config(["../../x.wasm"], folder="app"), "x.wasm"),
        # What `ENTRYPOINT = ["x.wasm"]` of the upstream README becomes.
        (config(["/bin/sh", "-c", '= ["x.wasm"]']), "x.wasm"),
        (config(None, ["/bin/sh", "-c", "/app/x.wasm --flag"]), "app/x.wasm"),
        (config(["/bin/sh", "-c", "'"]), None),
        (config(), None),
        (Config(), None),
    ],
)
def test_the_file_an_image_runs_is_read_from_every_form_of_entrypoint(image, expected):
    assert named_file(image) == expected


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("spelled", ["app/x.wasm", "./app/x.wasm", "/app/x.wasm"])
@pytest.mark.parametrize("wanted", ["app/x.wasm", "bin/runtime", None])
def test_the_module_is_found_however_its_path_is_spelled(packed, spelled, wanted):
    layers = [layer({"etc/motd": b"hi", spelled: b"wasm"}, packed=packed)]
    assert find_module(layers, wanted, max_bytes=LIMIT) == ("x.wasm", b"wasm")


def test_a_later_layer_replaces_and_deletes():
    base = layer({"x.wasm": b"old", "y.wasm": b"y", "d/z.wasm": b"z"})
    assert find_module([base, layer({"x.wasm": b"new"})], "x.wasm", max_bytes=LIMIT)[1] == b"new"
    top = layer({".wh.y.wasm": b"", "d/.wh..wh..opq": b""})
    assert find_module([base, top], None, max_bytes=LIMIT) == ("x.wasm", b"old")


def test_no_module_and_several_modules_are_told_apart():
    assert "the image holds no .wasm file; name one" in refusal([layer({"a": b""})])
    two = [layer({"a.wasm": b"", "b.wasm": b""})]
    assert "the image holds `/a.wasm`, `/b.wasm`; name one" in refusal(two)
    missing = "runs `/c.wasm`, which is not in it; it holds `/a.wasm`, `/b.wasm`"
    assert missing in refusal(two, "c.wasm")
    assert "which is not in it; it holds `/a.wasm`" in refusal([layer({"a.wasm": b""})], "c.wasm")
    assert "runs `/tool`, which is not in it" in refusal(two, "tool")


def test_names_out_of_an_image_do_not_reach_a_terminal_as_they_are():
    said = refusal([layer({"a\x1b[31m\n.wasm": b"", "b.wasm": b""})])
    assert said.isprintable()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
def test_a_link_is_never_followed(kind: bytes):
    layers = [layer({"x.wasm": link(kind, "/etc/passwd")})]
    assert "is a link or a folder" in refusal(layers, "x.wasm")


def test_what_a_layer_unpacks_to_is_bounded():
    bomb = [layer({"x.wasm": b"\0" * (8 * LIMIT)})]
    assert len(bomb[0][1]) < LIMIT / 10
    assert "has 8388608 bytes; that is too large" in refusal(bomb, "x.wasm")
    many = [layer({f"{n}": b"\0" * (LIMIT // 2) for n in range(4)})]
    assert "unpacks to more than is taken" in refusal(many)


def test_a_sparse_files_holes_take_no_memory():
    entry = tarfile.TarInfo("x.wasm")
    header = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    # One hole of 8 GiB: the "real size" field of the old GNU format.
    header[483:495] = b"77777777777\0"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    archive = bytes(header) + b"\0" * 1024
    assert "is a link or a folder" in refusal([(LAYER_TYPE, archive)], "x.wasm")


def test_a_long_chain_of_headers_is_damage():
    entry = tarfile.TarInfo("pax")
    entry.type = tarfile.XHDTYPE
    archive = entry.tobuf(tarfile.USTAR_FORMAT) * 5000
    assert "cannot be read" in refusal([(LAYER_TYPE, archive)], "x.wasm")


def test_a_layer_that_is_damaged_or_zstd_says_so():
    good = layer({"x.wasm": b"wasm" * 1000})[1]
    assert "cannot be read" in refusal([(LAYER_TYPE, good[:-20])], "x.wasm")
    assert "zstd layer" in refusal([(LAYER_TYPE.replace("gzip", "zstd"), good)])


@given(st.binary(max_size=600), st.integers(0, 2000), st.binary(min_size=1, max_size=20))
def test_arbitrary_layers_raise_nothing_but_a_verdict(noise: bytes, at: int, patch: bytes):
    archive = bytearray(layer({"x.wasm": b"wasm", "d/y": b"y" * 600}, packed=False)[1])
    archive[at : at + len(patch)] = patch
    for content in (noise, gzip.compress(noise), bytes(archive), b"\x1f\x8b" + noise):
        for wanted in ("x.wasm", None):
            with contextlib.suppress(Rejected):
                find_module([(LAYER_TYPE, content)], wanted, max_bytes=LIMIT)


def content(os: str = "", architecture: str = "") -> Content:
    return Content(DIGEST, 1, platform=Platform(os, architecture) if os else None)


@pytest.mark.parametrize(
    ("entries", "chosen"),
    [
        ([content("linux", "amd64"), content("wasip1", "wasm")], 1),
        ([content("wasi", "wasm32"), content("linux", "amd64")], 0),
        ([content("linux", "arm64")], 0),
        ([content()], 0),
        ([content("unknown", "unknown"), content("linux", "amd64")], 1),
    ],
)
def test_of_an_index_the_wasm_entry_is_taken_or_the_only_one(entries, chosen):
    assert choose(Manifest(manifests=entries)) is entries[chosen]


def test_an_index_without_a_choice_says_what_it_is_built_for():
    index = Manifest(manifests=[content("linux", "amd64"), content("linux", "arm64")])
    with pytest.raises(Rejected, match="built for linux/amd64, linux/arm64"):
        choose(index)


@pytest.mark.parametrize("text", [b"", b"[]", b'{"layers":[{"digest":"md5:1","size":1}]}', b"\xff"])
def test_a_document_of_another_shape_is_refused_by_name(text: bytes):
    with pytest.raises(Rejected, match="the manifest is not what"):
        decode(text, Manifest, "the manifest")


@given(st.text(max_size=200))
def test_a_file_name_from_an_image_always_fits_a_spec(path: str):
    assert re.fullmatch(r"[A-Za-z0-9_][-A-Za-z0-9_.+]{0,127}", file_name(path))
