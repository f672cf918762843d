"""What a message on SPECS or ACTIVE claims."""

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.active import ActiveFunction
from schemas.builds import Artifact, ImageSource, UploadSource, artifact_object, build_id
from schemas.specs import EnvironmentSpec, FunctionSpec, Module, RouteSpec
from services.builder.claimants import claim_of
from services.builder.claims import Claim, of_active, of_spec, union
from services.bus.state import Entry

MODULE = Module("ab" * 32, "sort.wasm")
UPLOAD = build_id(UploadSource(MODULE.sha256, MODULE.file_name))
ARTIFACT = Artifact("cd" * 32, "engine1", 10, "ef" * 32, "00")


@pytest.mark.parametrize(
    ("spec", "claimed"),
    [
        (FunctionSpec(module=MODULE), Claim(frozenset({UPLOAD}), frozenset({MODULE.sha256}))),
        (EnvironmentSpec(module=MODULE), Claim(frozenset({UPLOAD}), frozenset({MODULE.sha256}))),
        (FunctionSpec(image="r/a:1"), Claim(frozenset({build_id(ImageSource("r/a:1", 7))}))),
        (FunctionSpec(environment="python"), Claim()),
        (EnvironmentSpec(), Claim()),
        (RouteSpec(function="sort", path="/sort"), Claim()),
    ],
)
def test_a_spec_claims_the_build_of_the_code_that_it_names(spec, claimed):
    assert of_spec(msgspec.json.encode(spec), 7) == claimed


def test_a_spec_of_a_later_version_claims_its_build_all_the_same():
    spec = {"kind": "function", "module": msgspec.to_builtins(MODULE) | {"new": 1}, "newer": True}
    assert of_spec(msgspec.json.encode(spec), 1).builds == {UPLOAD}


def test_what_is_in_force_claims_its_build_and_its_artifact():
    active = ActiveFunction("ns", "sort", 3, FunctionSpec(image="r/a:1"), "b1", ARTIFACT, "a.wasm")
    claim = of_active(msgspec.json.encode(active))
    assert claim.builds == {"b1", build_id(ImageSource("r/a:1", 3))}
    assert claim.objects == {
        ARTIFACT.module,
        artifact_object(ARTIFACT.module, ARTIFACT.engine),
    }


@given(st.binary(max_size=200))
@example(b'{"\xff": 1}')
@example(b'{"x": ' + b"[" * 5000)
def test_garbage_claims_nothing_and_does_no_harm(payload: bytes):
    assert isinstance(of_spec(payload, 1), Claim)
    assert isinstance(of_active(payload), Claim)


def test_a_tombstone_claims_nothing_and_a_union_claims_all():
    gone = Entry("wasmfn.specs.function.ns.sort", 4, b"", datetime.now(UTC))
    assert claim_of(gone) == Claim()
    spec = msgspec.json.encode(FunctionSpec(module=MODULE))
    put = Entry("wasmfn.specs.function.ns.sort", 5, spec, datetime.now(UTC))
    assert union([claim_of(gone), claim_of(put)]) == claim_of(put)
    assert union([]) == Claim()
