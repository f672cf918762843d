import os
import subprocess
from collections.abc import Iterator

import pytest

from services.pids import has_ended, open_process, start_ticks


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_a_process_is_held_until_it_has_ended(sleeper: subprocess.Popen[bytes]) -> None:
    ticks = start_ticks(sleeper.pid)
    assert ticks is not None
    pidfd = open_process(sleeper.pid, ticks)
    assert pidfd is not None
    assert not has_ended(pidfd)
    sleeper.kill()
    assert has_ended(pidfd, within_s=30)
    # A zombie has ended too.
    assert open_process(sleeper.pid, ticks) is None
    sleeper.wait()
    assert open_process(sleeper.pid, ticks) is None
    os.close(pidfd)


def test_another_process_of_the_same_pid_is_not_opened(sleeper: subprocess.Popen[bytes]) -> None:
    ticks = start_ticks(sleeper.pid)
    assert ticks is not None
    assert open_process(sleeper.pid, ticks - 1) is None


@pytest.mark.parametrize("pid", [-1, 0, 1 << 40])
def test_what_is_no_pid_is_no_process(pid: int) -> None:
    assert open_process(pid, 1) is None
