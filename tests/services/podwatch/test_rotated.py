import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.podwatch import rotated
from services.podwatch.offsets import Position
from services.podwatch.rotated import RotatedTail, whole
from services.podwatch.tail import Batch, Line

TIME = b"2026-01-01T00:00:00.123456789Z"


@pytest.fixture(autouse=True)
def no_grace(monkeypatch) -> None:
    monkeypatch.setattr(rotated, "_SWAP_S", 0.0)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "0.log"
    path.touch()
    return path


def piece(text: bytes, tag: bytes = b"F", stream: bytes = b"stderr") -> bytes:
    return b" ".join((TIME, stream, tag, text)) + b"\n"


def append(log: Path, *pieces: bytes) -> None:
    with log.open("ab") as file:
        file.write(b"".join(pieces))


def rotate(log: Path, when: str) -> Path:
    old = log.rename(log.with_name(f"{log.name}.{when}"))
    log.touch()
    return old


def everything(tail: RotatedTail, position: Position) -> tuple[list[bytes], Position]:
    lines = []
    while (batch := tail.read(position)) is not None:
        lines += [line.raw for line in batch.lines]
        position = batch.then
    return lines, position


def test_the_text_of_each_line_is_read_without_what_the_runtime_put_before_it(log):
    append(log, piece(b"one two  three"), piece(b"", stream=b"stdout"))
    tail = RotatedTail(log, None)
    assert everything(tail, tail.begin)[0] == [b"one two  three", b""]


def test_a_line_in_pieces_is_put_together_when_its_last_piece_is_there(log):
    append(log, piece(b"a"), piece(b"on", b"P"), piece(b"e", b"P"))
    tail = RotatedTail(log, None)
    lines, position = everything(tail, tail.begin)
    assert lines == [b"a"]
    append(log, piece(b"!"))
    assert everything(tail, position)[0] == [b"one!"]


def test_a_rotated_log_is_read_to_its_end_and_then_the_new_one(log):
    append(log, piece(b"one"))
    tail = RotatedTail(log, None)
    lines, position = everything(tail, tail.begin)
    old = rotate(log, "20260101-000000")
    append(old, piece(b"two"))
    append(log, piece(b"three"))
    more, after = everything(tail, position)
    assert (lines, more) == ([b"one"], [b"two", b"three"])
    assert (after.generation, after.inode) == (1, log.stat().st_ino)


def test_a_writer_is_given_time_to_leave_the_old_file(log, monkeypatch):
    monkeypatch.setattr(rotated, "_SWAP_S", 3600.0)
    tail = RotatedTail(log, None)
    old = rotate(log, "20260101-000000")
    append(log, piece(b"new"))
    assert tail.read(tail.begin) is None
    assert tail.waits
    append(old, piece(b"late"))
    assert everything(tail, tail.begin)[0] == [b"late"]


def test_reading_goes_on_where_it_stopped_though_the_log_was_rotated_twice(log):
    append(log, piece(b"one"), piece(b"two"))
    tail = RotatedTail(log, None)
    first = tail.read(tail.begin)
    assert first is not None
    stopped = first.lines[1].at
    rotate(log, "20260101-000000")
    append(log, piece(b"three"))
    rotate(log, "20260102-000000")
    append(log, piece(b"four"))
    again = RotatedTail(log, stopped)
    assert everything(again, again.begin)[0] == [b"two", b"three", b"four"]


def test_a_file_that_was_compressed_meanwhile_is_passed_over(log):
    append(log, piece(b"one"))
    tail = RotatedTail(log, None)
    lost = rotate(log, "20260101-000000")
    lost.with_name(f"{lost.name}.gz").write_bytes(gzip.compress(lost.read_bytes()))
    # Held open here, so that its inode is not given to another file.
    with lost.open("rb"):
        lost.unlink()
        append(log, piece(b"two"))
        again = RotatedTail(log, tail.begin)
        assert everything(again, again.begin)[0] == [b"two"]
        assert again.begin.generation == tail.begin.generation + 1


def test_no_two_lines_of_a_pod_have_the_same_place(log):
    append(log, piece(b"one"))
    tail = RotatedTail(log, None)
    position = tail.begin
    places = []
    for when in ("20260101-000000", "20260102-000000", "20260103-000000"):
        while (batch := tail.read(position)) is not None:
            places += [(line.at.generation, line.at.offset) for line in batch.lines]
            position = batch.then
        rotate(log, when)
        append(log, piece(b"one"))
    assert len(places) == len(set(places)) == 3


def test_a_line_too_long_to_be_put_together_is_dropped_and_counted_once(log):
    long = [piece(b"x" * 16_000, b"P") for _ in range(40)]
    append(log, piece(b"before"), *long, piece(b"x"), piece(b"after"))
    tail = RotatedTail(log, None)
    position, lines, skipped = tail.begin, [], 0
    while (batch := tail.read(position)) is not None:
        lines += [line.raw for line in batch.lines]
        skipped += batch.skipped
        position = batch.then
    assert (lines, skipped) == ([b"before", b"after"], 1)


def test_what_is_not_in_the_format_is_passed_on_as_it_is(log):
    append(log, b"garbage\n", piece(b"one"))
    tail = RotatedTail(log, None)
    assert everything(tail, tail.begin)[0] == [b"garbage", b"one"]


def test_a_log_that_is_not_there_cannot_be_opened(tmp_path):
    with pytest.raises(FileNotFoundError):
        RotatedTail(tmp_path / "0.log", None)


@given(st.lists(st.lists(st.binary(max_size=5), min_size=1, max_size=4), max_size=6), st.data())
def test_however_the_pieces_come_in_batches_the_lines_are_the_same(texts, data):
    raw, offset = [], 0
    for pieces in texts:
        for i, text in enumerate(pieces):
            line = piece(text.replace(b"\n", b"."), b"F" if i == len(pieces) - 1 else b"P")[:-1]
            raw.append(Line(line, Position(1, 0, offset)))
            offset += len(line) + 1
    end = Position(1, 0, offset)
    lines, at, dropping = [], Position(1), False
    upto = 0
    while at != end and upto <= len(raw):
        upto = data.draw(st.integers(min(upto + 1, len(raw)), len(raw)))
        some = tuple(line for line in raw[:upto] if line.at.offset >= at.offset)
        then = raw[upto].at if upto < len(raw) else end
        batch, dropping = whole(Batch(some, then), at, dropping=dropping)
        if batch is not None:
            lines += [line.raw for line in batch.lines]
            at = batch.then
    assert lines == [b"".join(pieces).replace(b"\n", b".") for pieces in texts]
