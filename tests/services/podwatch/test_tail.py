from pathlib import Path

import pytest

from services.podwatch import tail as tailing
from services.podwatch.offsets import Position
from services.podwatch.tail import Tail


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    path.touch()
    return path


def append(log: Path, data: bytes) -> None:
    with log.open("ab") as file:
        file.write(data)


def everything(tail: Tail, position: Position) -> tuple[list[bytes], Position, int]:
    lines, skipped = [], 0
    while (batch := tail.read(position)) is not None:
        lines += [line.raw for line in batch.lines]
        position = batch.then
        skipped += batch.skipped
    return lines, position, skipped


def test_only_whole_lines_are_read_and_each_once(log):
    tail = Tail(log)
    append(log, b"one\ntwo\nthr")
    lines, position, _ = everything(tail, Position(tail.inode))
    assert lines == [b"one", b"two"]
    append(log, b"ee\n")
    lines, position, _ = everything(tail, position)
    assert (lines, position.offset) == ([b"three"], 14)


def test_a_line_has_its_own_place(log):
    tail = Tail(log)
    append(log, b"one\ntwo\n")
    batch = tail.read(Position(tail.inode, generation=2))
    assert batch is not None
    assert [(line.at.generation, line.at.offset) for line in batch.lines] == [(2, 0), (2, 4)]


def test_a_line_longer_than_a_chunk_is_skipped_and_counted(log, monkeypatch):
    monkeypatch.setattr(tailing, "CHUNK_BYTES", 16)
    tail = Tail(log)
    append(log, b"ok\n" + b"x" * 50 + b"\nnext\n")
    lines, _, skipped = everything(tail, Position(tail.inode))
    assert (lines, skipped) == ([b"ok", b"next"], 1)


def test_a_long_log_is_cut_after_it_was_read_and_goes_on(log, monkeypatch):
    monkeypatch.setattr(tailing, "TRUNCATE_BYTES", 8)
    tail = Tail(log)
    append(log, b"one\ntwo\n")
    _, position, _ = everything(tail, Position(tail.inode))
    append(log, b"three\n")
    assert tail.trim(position) == position
    lines, position, _ = everything(tail, position)
    assert lines == [b"three"]
    position = tail.trim(position)
    assert (position.generation, position.offset, log.stat().st_size) == (1, 0, 0)
    append(log, b"four\n")
    assert everything(tail, position)[0] == [b"four"]


def test_a_log_cut_by_someone_else_is_read_from_its_beginning(log):
    tail = Tail(log)
    append(log, b"one\ntwo\n")
    _, position, _ = everything(tail, Position(tail.inode))
    log.write_bytes(b"three\n")
    lines, position, _ = everything(tail, position)
    assert (lines, position.generation) == ([b"three"], 1)


def test_a_log_too_far_ahead_is_cut_unread_and_its_lines_are_counted(log, monkeypatch):
    monkeypatch.setattr(tailing, "BACKLOG_BYTES", 10)
    tail = Tail(log)
    append(log, b"one\n")
    assert tail.cut_backlog(Position(tail.inode)) is None
    append(log, b"two\nthree\n")
    cut = tail.cut_backlog(Position(tail.inode))
    assert cut is not None
    assert (cut.skipped, cut.then.offset, log.stat().st_size) == (3, 0, 0)


def test_a_symlink_is_not_followed(log, tmp_path):
    (tmp_path / "link").symlink_to(log)
    with pytest.raises(OSError, match="symbolic links"):
        Tail(tmp_path / "link")


def test_a_removed_log_is_read_to_its_end(log):
    tail = Tail(log)
    append(log, b"one\n")
    log.unlink()
    assert everything(tail, Position(tail.inode))[0] == [b"one"]
