import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.pids import start_ticks
from wasmfn import supervision
from wasmfn.supervision import FailedError, Program, Supervised, last_words


class Watched(Supervised):
    """A supervised program whose changes can be awaited."""

    def __init__(self, program: Program) -> None:
        self.deaths: list[str] = []
        self.changed = asyncio.Event()
        super().__init__(program, self.changed.set, lambda _, how: self.deaths.append(how))

    async def until_running(self, not_pid: int = 0) -> int:
        async with asyncio.timeout(10):
            while self.started is None or self.started.pid == not_pid:
                self.changed.clear()
                await self.changed.wait()
        return self.started.pid


def program(tmp_path: Path, script: str, grace_s: float = 5.0) -> Program:
    return Program(
        name="router",
        command=(sys.executable, "-c", script),
        environment={},
        log=tmp_path / "log",
        grace_s=grace_s,
    )


@contextlib.asynccontextmanager
async def running(program: Program) -> AsyncIterator[Watched]:
    supervised = Watched(program)
    task = asyncio.create_task(supervised.run())
    try:
        yield supervised
    finally:
        task.cancel()
        await asyncio.wait({task})


async def said(tmp_path: Path) -> str:
    """Return what the program has logged, once it has."""
    async with asyncio.timeout(10):
        while not (text := read(tmp_path / "log")):  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.002)
    return text


def read(file: Path) -> str:
    return file.read_text().strip()


def runs(pid: int) -> bool:
    return start_ticks(pid) is not None


SLEEP = "import time; time.sleep(60)"


async def test_a_log_that_grows_too_long_is_put_aside_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "LOG_BYTES", 100_000)
    monkeypatch.setattr(supervision, "_LOOK_S", 0.01)
    log = tmp_path / "log"
    script = "import time\nwhile True: print('x' * 99, flush=True); time.sleep(0.0001)"
    async with running(program(tmp_path, script)) as supervised:
        await supervised.until_running()
        async with asyncio.timeout(30):
            while not log.with_name("log.1").exists() or not log.stat().st_size:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert log.with_name("log.1").stat().st_size >= 100_000
    # It goes on at the start: no hole of zeros where the old lines were.
    assert set(log.read_text()) <= {"x", "\n"}


async def test_a_program_that_was_ready_is_started_again_when_it_dies(tmp_path):
    async with running(program(tmp_path, SLEEP)) as router:
        pid = await router.until_running()
        router.is_ready()
        for _ in range(3):
            os.kill(pid, signal.SIGKILL)
            pid = await router.until_running(not_pid=pid)
        assert router.deaths == ["was ended by SIGKILL"] * 3


async def test_a_program_that_was_never_ready_is_not_started_again(tmp_path):
    script = 'import sys; print(\'{"level":"error","message":"no port"}\'); sys.exit(2)'
    with pytest.raises(FailedError, match="the router ended with 2: no port"):
        await Watched(program(tmp_path, script)).run()


async def test_a_program_that_cannot_be_run_at_all_is_a_failure(tmp_path):
    missing = Program("router", ("/nonexistent",), {}, tmp_path / "log", 1.0)
    with pytest.raises(FailedError, match="cannot be started"):
        await Watched(missing).run()


async def test_a_stop_is_an_order_and_not_a_death(tmp_path):
    async with running(program(tmp_path, SLEEP)) as router:
        pid = await router.until_running()
        router.is_ready()
        await router.stop()
        assert (router.deaths, router.started) == ([], None)
        assert not runs(pid)


async def test_a_program_that_ignores_the_order_is_killed_after_its_grace(tmp_path):
    script = "import signal; signal.signal(15, signal.SIG_IGN); print(1, flush=True);" + SLEEP
    async with running(program(tmp_path, script, grace_s=0.1)) as router:
        pid = await router.until_running()
        await said(tmp_path)
        await router.stop()
        assert not runs(pid)


async def test_nothing_that_a_program_has_started_outlives_it(tmp_path):
    script = f"import subprocess as s; print(s.Popen(['sleep', '60']).pid, flush=True); {SLEEP}"
    async with running(program(tmp_path, script)) as router:
        await router.until_running()
        child = int(await said(tmp_path))
        await router.stop()
        async with asyncio.timeout(30):
            while runs(child):  # noqa: ASYNC110 - it is no child of ours
                await asyncio.sleep(0.002)


async def test_each_run_has_its_own_log_and_the_last_one_is_kept(tmp_path):
    async with running(
        program(tmp_path, "import os; print(os.getpid(), flush=True);" + SLEEP)
    ) as router:
        router.is_ready()
        first = await router.until_running()
        await said(tmp_path)
        os.kill(first, signal.SIGKILL)
        await router.until_running(not_pid=first)
        assert read(tmp_path / "log.1") == str(first)


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("", ""),
        ("Traceback\nKeyError: 'x'\n", "KeyError: 'x'"),
        ('{"level":"error","message":"bad port"}\n{"level":"info","message":"bye"}\n', "bad port"),
        ('{"level":"info","message":"hello"}\n', "hello"),
    ],
)
def test_the_last_words_are_the_last_error_or_else_the_last_line(tmp_path, log, words):
    (tmp_path / "log").write_text(log)
    assert last_words(tmp_path / "log") == words


def test_who_has_no_log_has_no_last_words(tmp_path):
    assert last_words(tmp_path / "log") == ""
