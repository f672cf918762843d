import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from schemas.pods import PodFact
from services.bus.connection import connect


class Podwatch:
    """A podwatch process, started as its supervisor starts it."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(directory / "notify"))
            notify.settimeout(10)
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "services.podwatch"],
                env={**environment, "NOTIFY_SOCKET": str(directory / "notify")},
                stderr=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd="/",
            )
            try:
                told = notify.recv(4096).decode()
            except TimeoutError:
                self.process.kill()
                raise AssertionError(f"not ready: {self.process.communicate()}") from None
        said = dict(line.split("=", 1) for line in told.strip().split("\n"))
        (directory / "notify").unlink()
        assert said["READY"] == "1"
        self.admin = said["X_WASMFN_ADMIN"]

    def kill(self, number: int = signal.SIGKILL) -> int:
        self.process.send_signal(number)
        self.process.communicate(timeout=30)
        return self.process.returncode


@pytest.fixture
def start(pods, nats_server, tmp_path) -> Iterator[Callable[[], Podwatch]]:
    """Return a function that starts a podwatch of `pods` and waits until it is ready."""
    started = []

    def start() -> Podwatch:
        environment = {
            "PATH": os.environ["PATH"],
            "WASMFN_PODWATCH_NATS_URL": nats_server.url,
            "WASMFN_PODWATCH_PODS_DIR": str(pods.directory),
            "WASMFN_PODWATCH_STATE_DIR": str(tmp_path / "state"),
        }
        started.append(Podwatch(tmp_path, environment))
        return started[-1]

    yield start
    for podwatch in started:
        if podwatch.process.returncode is None:
            podwatch.kill()


def fetch(url: str) -> str:
    with urllib.request.urlopen(url) as answer:  # noqa: S310 - our own admin port
        return answer.read().decode()


async def last_fact(nats_server, uid: str, holds: Callable[[PodFact], bool]) -> None:
    """Wait until what the stream says of a pod `holds`."""
    async with connect(nats_server.settings, "test") as bus:
        said: list[PodFact] = []
        subscription = await bus.js.subscribe(
            f"wasmfn.pods.local.{uid}", stream="PODS", ordered_consumer=True
        )
        while not said or not holds(said[-1]):
            message = await subscription.next_msg(timeout=30)
            said.append(msgspec.json.decode(message.data, type=PodFact))


async def test_a_podwatch_that_was_killed_tells_afterwards_what_it_missed(
    start, pods, nats_server, eventually
):
    podwatch = start()
    pods.start("u1")
    await last_fact(nats_server, "u1", lambda fact: fact.ready)
    podwatch.kill()
    pods.kill("u1")
    start()
    await last_fact(nats_server, "u1", lambda fact: fact.phase == "dead")


async def test_it_stops_when_told_and_exits_0(start, pods, nats_server):
    podwatch = start()
    pods.start("u1")
    await last_fact(nats_server, "u1", lambda fact: fact.ready)
    assert podwatch.kill(signal.SIGTERM) == 0


async def test_its_metrics_count_pods_and_the_facts_that_are_stored(
    start, pods, nats_server, eventually
):
    podwatch = start()
    pods.start("u1")
    await last_fact(nats_server, "u1", lambda fact: fact.ready)
    async with connect(nats_server.settings, "test") as bus:
        stored = (await bus.js.stream_info("PODS")).state.last_seq
    url = podwatch.admin + "/metrics"
    assert 'wasmfn_podwatch_pods{phase="ready"} 1.0' in fetch(url)
    # A fact is counted once NATS has said that it is stored, which is after it can be read.
    count = f"wasmfn_podwatch_facts_published_total {stored}.0"
    await eventually(lambda: count in fetch(url), within_s=30)


def test_a_missing_setting_is_named():
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "services.podwatch"],
        env={"WASMFN_PODWATCH_STATE_DIR": "/nowhere"},
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 2
    assert b"pods_dir" in ended.stdout + ended.stderr
