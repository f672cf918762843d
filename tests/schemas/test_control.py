"""Control messages: a load call's body reads back, and no cut body passes for a whole one."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.builds import Artifact, ImageSource, UploadSource, build_id
from schemas.control import LoadRequest, decode_load, encode_load
from schemas.signing import Claims, control_text
from schemas.specs import Limits

REQUEST = LoadRequest(
    instance="i",
    namespace="default",
    function="sort",
    revision=1,
    token="t",
    file_name="sort.wasm",
    interface="args",
    arguments=(),
    variables={"A": "ä"},
    limits=Limits(),
    concurrency=1,
    artifact=Artifact(module="a" * 64, engine="e", size=3, sha256="b" * 64, signature="x"),
)


@given(st.binary(max_size=100))
def test_a_load_body_gives_back_request_and_artifact(artifact: bytes) -> None:
    request, view = decode_load(encode_load(REQUEST, artifact))
    assert request == REQUEST
    assert bytes(view) == artifact


@given(st.integers(min_value=0))
def test_a_load_body_cut_in_its_head_is_refused(cut: int) -> None:
    body = encode_load(REQUEST, b"")
    with pytest.raises(msgspec.DecodeError):
        decode_load(body[: cut % len(body)])


@given(st.binary(max_size=100))
def test_garbage_is_no_load_body(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_load(body)


def test_every_claim_changes_what_is_signed() -> None:
    claims = Claims(keeper="k", boot="b", term=1, counter=2, body_sha256="d")
    texts = {control_text("POST", "/load", claims), control_text("GET", "/load", claims)}
    texts.add(control_text("POST", "/unload", claims))
    for field, value in {
        "keeper": "x",
        "boot": "x",
        "term": 3,
        "counter": 4,
        "body_sha256": "x",
    }.items():
        texts.add(control_text("POST", "/load", msgspec.structs.replace(claims, **{field: value})))
    assert len(texts) == 8


def test_equal_sources_are_one_build_and_different_sources_are_not() -> None:
    upload = UploadSource(sha256="a" * 64, file_name="x.wasm")
    assert build_id(upload) == build_id(UploadSource(sha256="a" * 64, file_name="x.wasm"))
    others = {
        build_id(UploadSource(sha256="a" * 64, file_name="y.wasm")),
        build_id(ImageSource(reference="a/b:1", revision=1)),
        build_id(ImageSource(reference="a/b:1", revision=2)),
        build_id(upload),
    }
    assert len(others) == 4
