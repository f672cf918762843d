import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wasmfn.orphans import Started, end_orphans, record, started

STUBBORN = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True)"


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_what_was_left_running_is_ended_and_named(tmp_path, sleeper):
    record(tmp_path / "p", {"router": started(sleeper.pid)})
    assert end_orphans(tmp_path / "p", within_s=5) == ["router"]
    assert sleeper.wait() == -signal.SIGTERM
    assert end_orphans(tmp_path / "p", within_s=5) == []


def test_a_stranger_with_the_same_pid_is_left_alone(tmp_path, sleeper):
    mine = started(sleeper.pid)
    record(tmp_path / "p", {"router": Started(mine.pid, mine.start_ticks - 1)})
    assert end_orphans(tmp_path / "p", within_s=5) == []
    assert sleeper.poll() is None


def test_what_does_not_end_when_asked_is_killed(tmp_path):
    script = STUBBORN + "; import time; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        record(tmp_path / "p", {"router": started(process.pid)})
        assert end_orphans(tmp_path / "p", within_s=0.05) == ["router"]
        assert process.wait() == -signal.SIGKILL


def test_the_last_one_is_asked_only_after_the_others_have_ended(tmp_path):
    # The first tells on its way out whether the last one still runs.
    with subprocess.Popen(["sleep", "60"]) as last:
        script = (
            "import os, signal, sys, time\n"
            f"def leave(*_): os.kill({last.pid}, 0); time.sleep(0.05); os.kill({last.pid}, 0);"
            " sys.exit(7)\n"
            "signal.signal(signal.SIGTERM, leave); print(flush=True); time.sleep(60)"
        )
        with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as first:
            assert first.stdout is not None
            first.stdout.readline()
            record(tmp_path / "p", {"nats": started(last.pid), "a": started(first.pid)})
            assert end_orphans(tmp_path / "p", within_s=5, last="nats") == ["nats", "a"]
            assert first.wait() == 7


@pytest.mark.parametrize("content", [b"", b"garbage", b'{"a": 1}'])
def test_a_garbage_record_is_no_record(tmp_path: Path, content: bytes):
    (tmp_path / "p").write_bytes(content)
    assert end_orphans(tmp_path / "p", within_s=1) == []
