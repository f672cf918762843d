"""What may be collected, for every world that hypothesis thinks of."""

from datetime import UTC, datetime, timedelta

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from schemas.builds import Artifact, Build, UploadSource, artifact_object, build_id
from services.builder import garbage
from services.builder.claims import Claim
from services.builder.garbage import Ages, Garbage, Stored

NOW = datetime(2026, 6, 1, tzinfo=UTC)
BEGAN = NOW - timedelta(days=30)
OLD = NOW - timedelta(days=3)
DAY_S = 24 * 3600.0
ALLOWED = garbage.ages(BEGAN, NOW, DAY_S)
MODULES = [f"{number:064x}" for number in range(4)]


def build(module: str, *, state: str = "ready", engine: str = "e1", time: datetime = OLD) -> Build:
    source = UploadSource(module, "a.wasm")
    artifact = Artifact(module, engine, 1, "0" * 64, "00") if state == "ready" else None
    return Build(build_id(source), source, state, time, artifact=artifact)  # type: ignore[arg-type]


def claim(*modules: str) -> Claim:
    return Claim(
        frozenset(build_id(UploadSource(m, "a.wasm")) for m in modules), frozenset(modules)
    )


def objects(module: str, engine: str = "e1", time: datetime = OLD) -> list[Stored]:
    return [Stored(module, time), Stored(artifact_object(module, engine), time)]


def test_what_no_revision_names_goes_and_what_one_names_stays():
    kept, gone = (build(module) for module in MODULES[:2])
    stored = objects(MODULES[0]) + objects(MODULES[1])
    layouts = [Stored(kept.id, OLD), Stored(gone.id, OLD)]
    found = garbage.find([kept, gone], stored, layouts, claim(MODULES[0]), ALLOWED)
    assert found == Garbage((gone.id,), tuple(o.name for o in objects(MODULES[1])), (gone.id,))


def test_the_artifact_of_an_engine_that_is_no_more_goes_unless_it_is_in_force():
    stored = [*objects(MODULES[0], "e2"), *objects(MODULES[0], "e1")[1:]]
    records = [build(MODULES[0], engine="e2")]
    old = artifact_object(MODULES[0], "e1")
    assert garbage.find(records, stored, [], claim(MODULES[0]), ALLOWED).objects == (old,)
    in_force = Claim(claim(MODULES[0]).builds, frozenset({MODULES[0], old}))
    assert garbage.find(records, stored, [], in_force, ALLOWED) == Garbage()


def test_what_is_young_stays():
    young = NOW - timedelta(hours=1)
    found = garbage.find(
        [build(MODULES[0], time=young)],
        objects(MODULES[1], time=young),
        [Stored("0" * 64, young)],
        Claim(),
        ALLOWED,
    )
    assert found == Garbage()


def test_what_is_older_than_the_streams_that_would_name_it_stays():
    before = BEGAN - timedelta(days=1)
    found = garbage.find(
        [build(MODULES[0], time=before)],
        objects(MODULES[1], time=before),
        [Stored("0" * 64, before)],
        Claim(),
        ALLOWED,
    )
    assert found == Garbage()


def test_a_build_under_way_keeps_all_that_it_may_use():
    under_way = msgspec.structs.replace(
        build(MODULES[0]), state="building", artifact=build(MODULES[0]).artifact
    )
    found = garbage.find([under_way], objects(MODULES[0]), [], Claim(), ALLOWED)
    assert found == Garbage()


TIMES = st.sampled_from([BEGAN - timedelta(days=1), OLD, NOW - timedelta(hours=1)])
BUILDS = st.builds(
    lambda module, state, engine, time: build(module, state=state, engine=engine, time=time),
    st.sampled_from(MODULES),
    st.sampled_from(["queued", "building", "ready", "failed", "cancelled"]),
    st.sampled_from(["e1", "e2"]),
    TIMES,
)
OBJECTS = st.builds(
    Stored,
    st.sampled_from([o.name for m in MODULES for e in ("e1", "e2") for o in objects(m, e)]),
    TIMES,
)


@given(
    st.lists(BUILDS, unique_by=lambda b: b.id),
    st.lists(OBJECTS, unique_by=lambda o: o.name),
    st.sets(st.sampled_from(MODULES)),
    st.sets(st.sampled_from(MODULES)),
)
def test_more_claims_never_collect_more_and_what_is_left_leads_nowhere_that_is_gone(
    records: list[Build], stored: list[Stored], some: set[str], more: set[str]
):
    layouts = [Stored(record.id, record.time) for record in records]
    few = garbage.find(records, stored, layouts, claim(*some), ALLOWED)
    many = garbage.find(records, stored, layouts, claim(*some, *more), ALLOWED)
    assert set(many.builds) <= set(few.builds)
    assert set(many.objects) <= set(few.objects)
    assert set(many.layouts) <= set(few.layouts)
    left = [record for record in records if record.id not in few.builds]
    assert not set(few.objects) & garbage.needed_objects(left, claim(*some))
    assert not set(few.layouts) & {record.id for record in left}
    times = {o.name: o.time for o in stored} | {record.id: record.time for record in records}
    assert all(ALLOWED.hold(times[name]) for name in (*few.builds, *few.objects, *few.layouts))


def test_nothing_is_garbage_when_it_must_be_older_than_the_streams_are():
    assert not Ages(NOW, NOW - timedelta(days=1)).hold(OLD)
