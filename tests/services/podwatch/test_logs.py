import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

import msgspec
import pytest

from schemas import subjects
from schemas.events import LogLine
from services.bus.connection import connect
from services.bus.streams import ensure_streams
from services.podwatch import tail as tailing
from services.podwatch.lines import Meter
from services.podwatch.logs import LogCarrier
from services.podwatch.offsets import Offsets


def log_line(text: str, **changes: object) -> bytes:
    line = {
        "time": "2026-01-01T00:00:00Z", "level": "info", "namespace": "default",
        "function": "sort", "instance": "i1", "request_id": "r1", "stream": "stderr", "text": text,
    }  # fmt: skip
    return json.dumps({**line, **changes}).encode() + b"\n"


def append(log: Path, *lines: bytes) -> None:
    with log.open("ab") as file:
        file.write(b"".join(lines))


def remembered(state: Path, log: Path) -> int:
    return Offsets(state / "offsets.json").get("u1", log.stat().st_ino).offset


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    path.touch()
    return path


@pytest.fixture
async def bus(nats_server):
    async with connect(nats_server.settings, "test") as bus:
        await ensure_streams(bus.js)
        yield bus


@contextlib.asynccontextmanager
async def carrying(bus, state: Path, meter: Meter | None = None) -> AsyncIterator[LogCarrier]:
    offsets = Offsets(state / "offsets.json")
    carrier = LogCarrier(bus, offsets, meter)
    tasks = [asyncio.create_task(carrier.run()), asyncio.create_task(offsets.run())]
    yield carrier
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


class Reader:
    """Everything on LOGS, in order."""

    def __init__(self, bus) -> None:
        self._bus = bus

    async def __aenter__(self) -> Self:
        self._subscription = await self._bus.js.subscribe(
            subjects.LOGS.wildcard, stream="LOGS", ordered_consumer=True
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._subscription.unsubscribe()

    async def next(self) -> LogLine:
        message = await self._subscription.next_msg(timeout=30)
        return msgspec.json.decode(message.data, type=LogLine)

    async def texts(self, count: int) -> list[str]:
        return [(await self.next()).text for _ in range(count)]


async def test_lines_arrive_once_each_in_order_and_garbage_survives(bus, log, tmp_path):
    append(log, log_line("before"))
    async with carrying(bus, tmp_path) as carrier, Reader(bus) as reader:
        carrier.follow("u1", log, "default")
        assert await reader.texts(1) == ["before"]
        append(log, b"Traceback (most recent call last):\n", b"\xff\xfe\n", log_line("after"))
        append(log, log_line("keeper's own", function="", namespace=""))
        append(log, log_line("of another tenant", namespace="other"), log_line("last"))
        assert await reader.texts(2) == ["after", "last"]
        assert (carrier.garbage, carrier.published) == (3, 3)


async def test_many_lines_keep_their_order(bus, log, tmp_path):
    texts = [str(number) for number in range(500)]
    append(log, *map(log_line, texts))
    async with carrying(bus, tmp_path) as carrier, Reader(bus) as reader:
        carrier.follow("u1", log, "default")
        assert await reader.texts(500) == texts


async def test_a_restart_neither_repeats_nor_skips_a_line(bus, log, tmp_path, eventually):
    async with Reader(bus) as reader:
        append(log, log_line("one"))
        async with carrying(bus, tmp_path) as carrier:
            carrier.follow("u1", log, "default")
            assert await reader.texts(1) == ["one"]
            await eventually(lambda: carrier.published == 1)
        assert remembered(tmp_path, log) == len(log_line("one"))
        append(log, log_line("two"))
        async with carrying(bus, tmp_path) as carrier:
            carrier.follow("u1", log, "default")
            assert await reader.texts(1) == ["two"]


async def test_a_restart_that_lost_its_place_is_caught_by_the_bus(bus, log, tmp_path, eventually):
    async with Reader(bus) as reader:
        append(log, log_line("one"))
        for _ in range(2):
            async with carrying(bus, tmp_path) as carrier:
                carrier.follow("u1", log, "default")
                await eventually(lambda carrier=carrier: carrier.published > 0)
            (tmp_path / "offsets.json").unlink()
        append(log, log_line("two"))
        async with carrying(bus, tmp_path) as carrier:
            carrier.follow("u1", log, "default")
            assert await reader.texts(2) == ["one", "two"]


async def test_the_last_words_of_a_pod_are_read_after_its_directory_is_gone(
    bus, log, tmp_path, eventually
):
    async with carrying(bus, tmp_path) as carrier, Reader(bus) as reader:
        carrier.follow("u1", log, "default")
        append(log, log_line("alive"))
        assert await reader.texts(1) == ["alive"]
        append(log, log_line("last words"))
        log.unlink()
        carrier.end("u1")
        assert await reader.texts(1) == ["last words"]
        await eventually(lambda: not carrier._followed)


async def test_lines_wait_in_the_file_while_nats_is_away(
    bus, log, tmp_path, nats_server, eventually
):
    async with carrying(bus, tmp_path) as carrier, Reader(bus) as reader:
        carrier.follow("u1", log, "default")
        append(log, log_line("one"))
        assert await reader.texts(1) == ["one"]
        nats_server.kill()
        append(log, log_line("two"))
        nats_server.start()
        await eventually(lambda: carrier.published == 2, within_s=20)
    async with Reader(bus) as reader:
        assert await reader.texts(2) == ["one", "two"]


async def test_a_log_that_grew_long_is_cut_and_goes_on(bus, log, tmp_path, monkeypatch, eventually):
    monkeypatch.setattr(tailing, "TRUNCATE_BYTES", 1000)
    async with carrying(bus, tmp_path) as carrier, Reader(bus) as reader:
        carrier.follow("u1", log, "default")
        for round_ in range(5):
            append(log, log_line("x" * 1000), log_line(str(round_)))
            assert (await reader.texts(2))[1] == str(round_)
            await eventually(lambda: log.stat().st_size == 0)


async def test_a_loud_function_is_cut_down_and_the_next_line_says_so(bus, log, tmp_path):
    meter = Meter(rate_per_s=50, burst=3)
    async with carrying(bus, tmp_path, meter) as carrier, Reader(bus) as reader:
        append(log, *(log_line(str(number)) for number in range(10)))
        carrier.follow("u1", log, "default")
        assert await reader.texts(3) == ["0", "1", "2"]
        dropped = 0
        while not dropped:
            append(log, log_line("later"))
            if carrier.published > 3:
                dropped = (await reader.next()).dropped
            await asyncio.sleep(0.005)
        assert dropped >= 7


async def test_a_flood_of_garbage_leaves_time_for_everything_else(bus, log, tmp_path):
    append(log, b"garbage\n" * 100_000)
    turns = 0
    async with carrying(bus, tmp_path) as carrier:
        carrier.follow("u1", log, "default")
        while carrier.garbage < 100_000:
            turns += 1
            await asyncio.sleep(0)
    assert turns > 800_000 / tailing.CHUNK_BYTES


async def test_a_log_that_is_not_there_is_no_error(bus, tmp_path):
    async with carrying(bus, tmp_path) as carrier:
        carrier.follow("u1", tmp_path / "nothing", "default")
        await asyncio.sleep(0)  # lets it look


async def test_a_garbage_offsets_file_is_read_as_none(bus, log, tmp_path):
    (tmp_path / "offsets.json").write_bytes(b"garbage")
    append(log, log_line("one"))
    async with carrying(bus, tmp_path) as carrier, Reader(bus) as reader:
        carrier.follow("u1", log, "default")
        assert await reader.texts(1) == ["one"]
