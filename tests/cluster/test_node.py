"""The lab's node: that it reaches nothing, that runs take turns, and that nothing of it stays."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster import lab
from tests.cluster.lab import paths, process
from tests.cluster.lab.commands import CommandError
from tests.cluster.lab.containerd import BUSYBOX_IMAGE

pytestmark = pytest.mark.cluster

CHECKOUT = Path(__file__).resolve().parents[2]
TURN = """
from tests.cluster.lab import tiers, turns
with turns.turn(lambda: print("waits", flush=True)):
    tiers.ensure_containerd()
    print("up", flush=True)
    input()
"""


def test_nothing_outside_is_reached(containerd: None) -> None:
    assert "default" not in lab.run("ip", "route")
    with pytest.raises(CommandError, match=r"[Nn]etwork is unreachable"):
        # An address that is nobody's (RFC 5737).
        lab.run("busybox", "nc", "-w", "2", "192.0.2.1", "80")


def test_the_lab_is_not_taken_down_from_its_own_node(containerd: None) -> None:
    with pytest.raises(CommandError, match="from outside"):
        lab.run(sys.executable, "-m", "tests.cluster.lab", "down")
    assert "node1" in lab.run("hostname")


@pytest.fixture
def other_lab(containerd: None) -> Iterator[dict[str, str]]:
    """Return the environment of a second lab beside the one that the tests share."""
    environment = {**os.environ, "WASMFN_LAB_NAME": f"test-{os.getpid()}"}
    yield environment
    command(environment, "down")
    shutil.rmtree(paths.ROOT / "labs" / environment["WASMFN_LAB_NAME"])


def command(environment: dict[str, str], *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster.lab", *words],
        cwd=CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_nothing_of_a_lab_stays(other_lab: dict[str, str]) -> None:
    command(other_lab, "up", "containerd")
    state = paths.ROOT / "labs" / other_lab["WASMFN_LAB_NAME"] / "state"
    cgroups = [Path(line) for line in (state / "cgroups").read_text().splitlines()]
    pids = {pid for cgroup in cgroups for pid in _members(cgroup)}
    assert len(pids) >= 4
    _run_a_container(other_lab)
    # A lab whose daemon crashed and whose container still runs is a lab to remove all the same.
    containerd_pid = int((state / "pids/containerd").read_text().split()[0])
    os.kill(containerd_pid, 9)
    pids |= {pid for cgroup in cgroups for pid in _members(cgroup)}

    command(other_lab, "down")

    assert not state.exists()
    assert not [cgroup for cgroup in cgroups if cgroup.exists()]
    assert not [pid for pid in pids if process.started(pid)]
    assert other_lab["WASMFN_LAB_NAME"] not in Path("/proc/mounts").read_text()


def test_a_lab_whose_maker_died_before_it_wrote_a_pid_is_ended(other_lab: dict[str, str]) -> None:
    command(other_lab, "up", "containerd")
    state = paths.ROOT / "labs" / other_lab["WASMFN_LAB_NAME"] / "state"
    pid, ticks = map(int, (state / "pids/node").read_text().split())
    shutil.rmtree(state / "pids")

    command(other_lab, "down")

    assert process.started(pid) != ticks
    assert not state.exists()


def test_up_replaces_what_an_earlier_run_left(other_lab: dict[str, str]) -> None:
    command(other_lab, "up", "containerd")
    state = paths.ROOT / "labs" / other_lab["WASMFN_LAB_NAME"] / "state"
    first = (state / "pids/node").read_text()
    os.kill(int((state / "pids/containerd").read_text().split()[0]), 9)

    command(other_lab, "up", "containerd")

    assert (state / "pids/node").read_text() != first
    pid, ticks = map(int, first.split())
    assert process.started(pid) != ticks
    _run_a_container(other_lab)


def _run_a_container(environment: dict[str, str]) -> None:
    container = ["ctr", "-n", "k8s.io", "run", "--detach", BUSYBOX_IMAGE, "idle", "sleep", "600"]
    command(environment, "exec", "--", *container)


def _members(cgroup: Path) -> list[int]:
    return [int(pid) for file in cgroup.rglob("cgroup.procs") for pid in file.read_text().split()]


def state_of(environment: dict[str, str]) -> Path:
    return paths.ROOT / "labs" / environment["WASMFN_LAB_NAME"] / "state"


@contextmanager
def run_of(environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A test run, as far as the lab can tell."""
    command = [sys.executable, "-c", TURN]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=CHECKOUT, env=environment, **pipes) as run:
        try:
            yield run
        finally:
            run.kill()


def test_a_run_waits_for_another_and_removes_what_it_left_when_killed(
    other_lab: dict[str, str],
) -> None:
    with run_of(other_lab) as first, run_of(other_lab) as second:
        by_end = {run.stdout.readline(): run for run in (first, second)}
        assert set(by_end) == {"up\n", "waits\n"}
        node = state_of(other_lab) / "pids/node"
        left = node.read_text()
        by_end["up\n"].kill()
        assert by_end["waits\n"].stdout.readline() == "up\n"
        assert node.read_text() != left
        pid, ticks = map(int, left.split())
        assert process.started(pid) != ticks
        by_end["waits\n"].communicate("\n")
    assert not state_of(other_lab).exists()


def test_a_run_uses_a_lab_that_was_brought_up_by_hand_and_leaves_it(
    other_lab: dict[str, str],
) -> None:
    command(other_lab, "up", "containerd")
    before = (state_of(other_lab) / "pids/node").read_text()
    with run_of(other_lab) as run:
        assert run.communicate("\n")[0] == "up\n"
    assert (state_of(other_lab) / "pids/node").read_text() == before
    assert "running" in command(other_lab, "status")
