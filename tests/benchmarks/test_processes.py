import os
import subprocess
import sys

import pytest

from benchmarks.harness import processes
from benchmarks.harness.result import MissingError


def test_a_program_that_is_not_installed_is_named_with_how_to_get_it():
    with pytest.raises(MissingError, match="no-such-program is not installed: apt install"):
        processes.program("no-such-program")


def test_a_program_that_ends_before_it_serves_is_an_error():
    with (
        pytest.raises(RuntimeError, match="before it served"),
        processes.running([sys.executable, "-c", "raise SystemExit(3)"], port=1),
    ):
        pass


def test_a_program_is_gone_when_its_block_is_left():
    with processes.running([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        assert processes.family(os.getpid()).count(process.pid) == 1
    assert process.returncode is not None


def test_a_program_runs_on_the_core_it_is_given():
    core = processes.CORES[-1]
    code = "import os; print(os.sched_getaffinity(0))"
    command = processes.pinned([sys.executable, "-c", code], core)
    assert subprocess.check_output(command, text=True) == f"{ {core} }\n"


def test_what_a_process_uses_is_read():
    pid = os.getpid()
    assert processes.cpu_s(pid) > 0
    assert 0 < processes.pss_kib(pid) <= processes.rss_kib(pid)
    assert processes.open_files(pid) > 2


def test_a_process_with_one_below_it_has_one_leaf():
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe) as process:
        while len(processes.family(process.pid)) < 2:
            assert process.poll() is None
        assert processes.only_leaf(process.pid) == processes.family(process.pid)[1]
        process.communicate(b"\n")
    with pytest.raises(RuntimeError, match="0 leaves below it"):
        processes.only_leaf(process.pid)
