"""What a follower tells, for any history of a stream and any gaps in what it hears."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from services.bus.state import Deleted, Entry, Held, Put

NOW = datetime.now(UTC)
# What was published, in order: a subject, and a payload or a tombstone.
HISTORY = st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=30)


def entries(history: list[tuple[str, bool]]) -> list[Entry]:
    return [
        Entry(subject, sequence, b"x" if alive else b"", NOW)
        for sequence, (subject, alive) in enumerate(history, 1)
    ]


def last_of_each(stored: list[Entry]) -> list[Entry]:
    last = {entry.subject: entry for entry in stored}
    return sorted(last.values(), key=lambda entry: entry.sequence)


def apply(rows: dict[str, int], update: Put | Deleted | None) -> None:
    match update:
        case Put(entry):
            assert entry.sequence > rows.get(entry.subject, 0)
            rows[entry.subject] = entry.sequence
        case Deleted(subject):
            del rows[subject]


def alive(stored: list[Entry]) -> dict[str, int]:
    return {e.subject: e.sequence for e in last_of_each(stored) if e.payload}


@given(HISTORY, st.data())
def test_after_any_gap_a_complete_snapshot_brings_the_table_to_what_the_stream_holds(history, data):
    stored = entries(history)
    held, rows = Held(), {}
    for entry in stored:
        if data.draw(st.booleans(), "heard"):
            apply(rows, held.take(entry))
    expired = {
        e.subject for e in last_of_each(stored) if not e.payload and data.draw(st.booleans())
    }
    snapshot = [entry for entry in last_of_each(stored) if entry.subject not in expired]
    for entry in snapshot:
        apply(rows, held.take(entry))
    for subject in held.missing({entry.subject for entry in snapshot}):
        apply(rows, held.drop(subject))
    assert rows == alive(stored)


@given(HISTORY, st.randoms())
def test_nothing_older_is_told_after_something_newer_in_whatever_order_it_comes(history, random):
    stored = entries(history)
    shuffled = stored * 2
    random.shuffle(shuffled)
    held, rows = Held(), {}
    told: dict[str, int] = {}
    for entry in shuffled:
        update = held.take(entry)
        if update is not None:
            assert entry.sequence > told.get(entry.subject, 0)
            told[entry.subject] = entry.sequence
        apply(rows, update)
    assert rows == alive(stored)


@given(HISTORY)
def test_a_table_started_from_a_snapshot_hears_of_nothing_twice(history):
    stored = entries(history)
    held = Held()
    held.restart(NOW, last_of_each(stored))
    assert [held.take(entry) for entry in stored] == [None] * len(stored)


def test_tombstones_that_the_stream_has_forgotten_are_forgotten_here():
    held = Held()
    for sequence in range(1, 1000):
        held.take(Entry(f"s{sequence}", sequence, b"", NOW))
    held.missing(set())
    assert not held._dead
