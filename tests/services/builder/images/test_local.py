import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from services.builder.errors import Unavailable
from services.builder.images.local import LocalImages

MODULE = (Path(__file__).parents[4] / "examples" / "sort" / "sort.wasm").read_bytes()
BUILD = "b" * 64


def build(directory: Path, module: bytes = MODULE) -> str:
    return asyncio.run(
        LocalImages(directory, "linux/amd64").build(BUILD, module, "sort.wasm", print)
    )


def test_the_layout_is_complete_and_appears_under_its_builds_id(tmp_path: Path):
    reference = build(tmp_path)
    assert reference == f"oci:{tmp_path / BUILD}:latest"
    assert [path.name for path in tmp_path.iterdir()] == [BUILD]
    layout = json.loads((tmp_path / BUILD / "oci-layout").read_bytes())
    assert layout == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((tmp_path / BUILD / "index.json").read_bytes())
    digest = index["manifests"][0]["digest"].removeprefix("sha256:")
    assert len(list((tmp_path / BUILD / "blobs" / "sha256").iterdir())) == 3
    assert (tmp_path / BUILD / "blobs" / "sha256" / digest).is_file()


def test_building_again_replaces_the_layout(tmp_path: Path):
    build(tmp_path, b"old")
    build(tmp_path)
    assert len(list((tmp_path / BUILD / "blobs" / "sha256").iterdir())) == 3
    assert [path.name for path in tmp_path.iterdir()] == [BUILD]


def test_a_directory_that_cannot_be_written_is_a_reason_to_wait(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Unavailable, match="cannot write the image"):
        build(tmp_path / "file")


def test_of_a_discarded_build_nothing_is_left(tmp_path: Path):
    build(tmp_path)
    for _ in range(2):
        asyncio.run(LocalImages(tmp_path, "linux/amd64").discard(BUILD))
        assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not shutil.which("skopeo"), reason="needs Debian's skopeo")
def test_skopeo_reads_the_image(tmp_path: Path):
    reference = build(tmp_path)
    said = subprocess.run(
        ["skopeo", "inspect", "--config", reference], check=True, capture_output=True
    )
    config = json.loads(said.stdout)
    assert config["config"]["Entrypoint"] == ["/sort.wasm"]
    copy = ["skopeo", "--insecure-policy", "copy", "--quiet", reference, f"dir:{tmp_path / 'copy'}"]
    subprocess.run(copy, check=True, capture_output=True)


@pytest.mark.skipif(not shutil.which("umoci"), reason="needs Debian's umoci")
def test_umoci_unpacks_the_module(tmp_path: Path):
    reference = build(tmp_path)
    image = reference.removeprefix("oci:")
    bundle = tmp_path / "bundle"
    subprocess.run(
        ["umoci", "unpack", "--rootless", "--image", image, bundle], check=True, capture_output=True
    )
    assert (bundle / "rootfs" / "sort.wasm").read_bytes() == MODULE
    runtime = json.loads((bundle / "config.json").read_bytes())
    assert runtime["process"]["args"] == ["/sort.wasm"]
