import gzip
import io
import json
import tarfile

from hypothesis import given
from hypothesis import strategies as st

from schemas.names import sha256_hex
from services.builder.layout import LAYER_TYPE, build_image
from services.builder.unpack import find_module

NAMES = st.from_regex(r"\A[A-Za-z0-9_][-A-Za-z0-9_.+]{0,127}\Z")


@given(st.binary(max_size=2000), NAMES)
def test_every_blob_and_size_is_what_its_descriptor_says(module: bytes, name: str):
    image = build_image(module, name)
    manifest = json.loads(image.blobs[image.manifest.digest])
    config = json.loads(image.blobs[manifest["config"]["digest"]])
    (layer,) = manifest["layers"]
    for descriptor in (manifest["config"], layer):
        content = image.blobs[descriptor["digest"]]
        assert descriptor["size"] == len(content)
        assert descriptor["digest"] == "sha256:" + sha256_hex(content)
    archive = gzip.decompress(image.blobs[layer["digest"]])
    assert config["rootfs"]["diff_ids"] == ["sha256:" + sha256_hex(archive)]
    assert config["config"]["Entrypoint"] == [f"/{name}"]
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        (entry,) = opened.getmembers()
    assert (entry.name, entry.size, entry.mode, entry.mtime) == (name, len(module), 0o555, 0)


@given(st.binary(max_size=2000), NAMES)
def test_the_module_comes_out_of_its_image_unchanged(module: bytes, name: str):
    image = build_image(module, name)
    layers = json.loads(image.blobs[image.manifest.digest])["layers"]
    parts = [(layer["mediaType"], image.blobs[layer["digest"]]) for layer in layers]
    assert parts[0][0] == LAYER_TYPE
    assert find_module(parts, name, max_bytes=100_000) == (name, module)


def test_the_same_module_makes_the_same_image_at_any_time():
    assert build_image(b"wasm", "x.wasm") == build_image(b"wasm", "x.wasm")
    assert build_image(b"wasm", "x.wasm") != build_image(b"wasm", "y.wasm")


def test_the_platform_is_the_nodes():
    image = build_image(b"wasm", "x.wasm", "linux/arm64")
    manifest = json.loads(image.blobs[image.manifest.digest])
    config = json.loads(image.blobs[manifest["config"]["digest"]])
    assert (config["os"], config["architecture"]) == ("linux", "arm64")
