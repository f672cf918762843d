from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.builds import Artifact, Build, BuildRequest, ImageSource, UploadSource, build_id
from services.builder import reconcile

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = datetime(2026, 1, 2, tzinfo=UTC)
UPLOAD = UploadSource("ab" * 32, "x.wasm")
IMAGE = ImageSource("docker.io/you/x:1", 7)
ARTIFACT = Artifact("ab" * 32, "engine1", 3, "cd" * 32, "ef")


def record(state: str, source=UPLOAD, **fields) -> Build:
    return Build(build_id(source), source, state, NOW, **fields)


def accept(request: BuildRequest, current: Build | None, engine="engine1", stored=True):
    return reconcile.accept(request, current, engine, stored=stored, now=LATER)


def test_a_first_request_queues_the_build_under_its_sources_id():
    build = accept(BuildRequest(UPLOAD, correlation="c"), None)
    assert build == Build(build_id(UPLOAD), UPLOAD, "queued", LATER, correlation="c")


@pytest.mark.parametrize("state", ["queued", "building"])
@pytest.mark.parametrize("retry", [True, False])
def test_a_request_for_a_build_under_way_changes_nothing(state, retry):
    assert accept(BuildRequest(UPLOAD, retry=retry), record(state)) is None


def test_a_failed_build_stays_failed_until_somebody_asks_to_retry():
    failed = record("failed", error="no", correlation="old")
    assert accept(BuildRequest(UPLOAD), failed) is None
    again = accept(BuildRequest(UPLOAD, correlation="new", retry=True), failed)
    assert (again.state, again.error, again.correlation) == ("queued", None, "new")


@pytest.mark.parametrize(
    ("engine", "stored", "stands"),
    [
        ("engine1", True, True),
        ("", True, True),
        ("engine2", True, False),
        ("engine1", False, False),
    ],
)
def test_a_ready_build_stands_while_its_artifact_is_there_and_fits(engine, stored, stands):
    ready = record("ready", IMAGE, artifact=ARTIFACT, file_name="x.wasm")
    build = accept(BuildRequest(IMAGE), ready, engine, stored)
    assert (build is None) == stands
    if build is not None:
        # The same module is built again, not what the tag names by now.
        assert reconcile.module_digest(build) == ARTIFACT.module
        assert build.file_name == "x.wasm"


def test_the_module_of_an_image_is_known_only_after_it_was_built_once():
    assert reconcile.module_digest(record("queued", IMAGE)) is None
    assert reconcile.module_digest(record("queued", UPLOAD)) == UPLOAD.sha256


def test_a_record_of_the_end_holds_what_its_state_promises():
    build = reconcile.waiting(record("building", error=None), "away", LATER)
    assert (build.state, build.error) == ("building", "away")
    ready = reconcile.ready(build, "x.wasm", ARTIFACT, "oci:x", 65536, (), LATER)
    assert (ready.state, ready.artifact, ready.image, ready.memory_bytes, ready.error) == (
        "ready", ARTIFACT, "oci:x", 65536, None,
    )  # fmt: skip
    failed = reconcile.failed(ready, "why", LATER)
    assert (failed.state, failed.artifact, failed.image, failed.error) == (
        "failed", None, None, "why",
    )  # fmt: skip
    assert reconcile.finished(ready)
    assert reconcile.finished(failed)
    assert not reconcile.finished(build)


@given(st.floats(0, 10_000), st.floats(0, 10_000))
def test_a_wait_is_bounded_and_ends(waited_s: float, give_up_s: float):
    wait_s = reconcile.wait_s(waited_s, give_up_s)
    if waited_s >= give_up_s:
        assert wait_s is None
    else:
        assert reconcile.FIRST_WAIT_S <= wait_s <= reconcile.LAST_WAIT_S


def test_giving_up_takes_few_tries_and_not_much_longer_than_said():
    waited_s, tries = 0.0, 0
    while (wait_s := reconcile.wait_s(waited_s, 600.0)) is not None:
        waited_s, tries = waited_s + wait_s, tries + 1
    assert tries < 40
    assert waited_s <= 601.0


def test_every_record_survives_the_bus():
    build = reconcile.ready(record("queued", IMAGE), "x.wasm", ARTIFACT, "oci:x", 65536, (), LATER)
    assert msgspec.json.decode(msgspec.json.encode(build), type=Build) == build
