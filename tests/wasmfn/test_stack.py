"""The local platform as a user has it: real programs, started by `wasmfn up`."""

import asyncio
import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from schemas.events import LogLine
from services.pids import is_running
from services.scheduler.pods.processes import read_pod
from tests.wasmfn.up import Call, Up, processes, told
from wasmfn import client
from wasmfn.discovery import NoPlatformError, Platform, find_platform

SERVICES = ("router", "builder", "scheduler", "podwatch")


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    """Return a function that starts `wasmfn up` with some flags. Nothing of it survives."""
    started: list[Up] = []

    def start(*flags: str, data: Path = tmp_path / "data") -> Up:
        started.append(Up(data, *flags))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.end(signal.SIGKILL)
        else:
            each.process.communicate()
    for pid in processes(str(tmp_path)):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Return a platform that several tests share, because they leave it as it is."""
    up = Up(tmp_path_factory.mktemp("running") / "data").ready()
    yield up
    assert up.end() == (0, "")


def test_a_deployed_function_answers_and_comes_back_after_a_restart(up):
    first = up().ready()
    first.deploy("sort")
    first.sorts()
    nats_url = first.platform.nats_url
    assert first.end() == (0, "")
    assert first.pids() == []
    second = up().ready()
    assert second.platform.nats_url == nats_url
    second.sorts()
    assert second.end(signal.SIGINT) == (0, "")
    assert second.pids() == []


def test_clients_wait_while_the_router_is_started_again(up):
    platform = up().ready()
    platform.deploy("sort")
    platform.sorts()
    for _ in range(3):
        os.kill(platform.pid("router"), signal.SIGKILL)
        # Nobody is refused, and what is asked is answered when the routes are known again.
        assert platform.ask("/sort", '{"args":["2","1"]}', timeout_s=30)[0] == 200
    where = urlsplit(platform.platform.http_url)
    assert platform.end()[0] == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((where.hostname, where.port))


def test_what_dies_is_started_again_and_functions_go_on_answering(up):
    platform = up().ready()
    began = datetime.now(UTC)
    platform.deploy("sort")
    for service in ("podwatch", "builder", "scheduler", "nats", "router"):
        pid = platform.pid(service)
        os.kill(pid, signal.SIGKILL)
        if service == "router":
            assert platform.process.poll() is None
        else:
            # Silence deletes nothing: not even for the moment until it is back.
            assert platform.ask("/sort")[0] == 200
        deadline = time.monotonic() + 10
        while platform.pids("nats.conf" if service == "nats" else f"services.{service}\0") in (
            [], [pid],
        ):  # fmt: skip
            assert time.monotonic() < deadline
            time.sleep(0.01)
        platform.sorts()
    platform.deploy("hello")
    assert "hello, world" in platform.ask("/hello")[1]
    assert asyncio.run(restarts(platform, began)) == {*SERVICES, "nats"}
    code, said = platform.end()
    assert code == 0
    for service in ("podwatch", "builder", "scheduler", "nats", "router"):
        assert f"the {service} was ended by SIGKILL and is started again" in said
    assert platform.pids() == []


async def restarts(platform: Up, since: datetime) -> set[str]:
    """Return which parts the event log says were restarted, once it says so of all."""
    names: set[str] = set()
    async with (
        asyncio.timeout(10),
        client.connect(platform.platform) as connected,
        contextlib.aclosing(connected.events(since, follow=True)) as events,
    ):
        async for event in events:
            if (event.service, event.what) == ("up", "restarted"):
                names.add(event.name)
            if len(names) > len(SERVICES):
                break
    return names


def test_a_keeper_killed_with_9_is_replaced_even_while_nobody_watched(up):
    platform = up().ready()
    platform.deploy("sort")
    platform.sorts()
    (keeper,) = keepers(platform)
    os.kill(platform.pid("podwatch"), signal.SIGKILL)
    os.kill(keeper, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while keepers(platform) <= {keeper}:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    platform.sorts()
    assert platform.end()[0] == 0


def keepers(up: Up) -> set[int]:
    """Return the keepers that run: their zygotes, without the functions' processes."""
    pods = [read_pod(directory) for directory in (up.data / "pods").iterdir()]
    return {pod.pid for pod in pods if pod and is_running(pod.pid, pod.start_ticks)}


def test_what_a_function_says_is_in_its_log_once(running):
    began = datetime.now(UTC)
    running.deploy("stderr")
    assert running.ask("/stderr")[0] == 200
    assert running.ask("/stderr")[0] == 200
    lines = asyncio.run(log_lines(running, "stderr", began, 2))
    assert [line.text for line in lines if line.stream == "stderr"] == ["to stderr"] * 2
    assert len({line.request_id for line in lines}) == 2


async def log_lines(platform: Up, function: str, since: datetime, count: int) -> list[LogLine]:
    lines = []
    async with (
        asyncio.timeout(10),
        client.connect(platform.platform) as connected,
        contextlib.aclosing(connected.logs("default", function, since, follow=True)) as log,
    ):
        async for line in log:
            lines.append(line)
            if len(lines) == count:
                break
    return lines


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_the_end_of_its_terminal_is_an_order_to_stop_too(up, number):
    platform = up().ready()
    assert platform.end(number) == (0, "")
    assert platform.pids() == []


def test_an_up_that_was_killed_is_cleaned_up_by_the_next_one(up):
    first = up().ready()
    first.deploy("sort")
    first.sorts()
    first.end(signal.SIGKILL)
    left = first.pids()
    assert len(left) >= 6
    second = up().ready()
    assert not set(left) & set(second.pids())
    second.sorts()
    code, said = second.end()
    assert code == 0
    assert "had left running: nats, router, builder, scheduler, podwatch, 1 keepers" in said


def test_a_second_up_on_the_same_data_is_refused_and_harms_nothing(running, up):
    before = running.pids()
    code, said = up(data=running.data).ended()
    assert code == 3
    assert f"already (pid {running.process.pid})" in said
    assert running.platform.http_url in running.line
    assert running.pids() == before


def test_a_port_in_use_is_refused_before_anything_starts(up, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = up("--http", f"127.0.0.1:{port}").ended()
    assert code == 3
    assert f"127.0.0.1:{port}: another program uses it; name another address with --http" in said
    assert processes(str(tmp_path)) == []


@pytest.mark.parametrize(
    "address", ["nonsense", "127.0.0.1:http", "127.0.0.1:99999", "256.1.1.1:1", "8081", ":0"]
)
def test_an_address_that_cannot_be_is_refused(up, address):
    code, said = up("--http", address).ended()
    assert code == 3
    assert address in said
    assert "Traceback" not in said


@pytest.mark.parametrize("data", ["/proc/wasmfn", "/dev/null/wasmfn"])
def test_a_data_directory_that_cannot_be_used_is_said_so(up, data):
    code, said = up(data=Path(data)).ended()
    assert code == 4
    assert f"cannot use the data directory {data}" in said
    assert "Traceback" not in said


def test_a_full_disk_is_said_so(up, tmp_path):
    # A limit on the size of files is what a test without root has of a full disk.
    data = tmp_path / "data"
    script = (
        "import resource, signal, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0));"
        " signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        " from wasmfn.cli import main; sys.exit(main())"
    )
    ended = subprocess.run(
        [sys.executable, "-P", "-c", script, "up", "--data", str(data)],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 4
    assert f"cannot use the data directory {data}" in ended.stderr
    assert processes(str(data)) == []


def test_a_part_that_does_not_start_is_named_with_its_own_words(up, tmp_path):
    code, said = up("--nats", "nats://127.0.0.1:1", "--http", "127.0.0.1:0").ended()
    assert code == 5
    assert "the platform did not start: the " in said
    assert "NATS did not answer" in said
    assert processes(str(tmp_path)) == []


def test_a_nats_that_runs_already_is_used_and_left_running(up, make_nats_server):
    server = make_nats_server(token="s3cret")
    platform = up(
        "--nats", server.url, "--nats-token-file", str(server.token_file), "--http", "127.0.0.1:0"
    ).ready()
    assert platform.pids("nats-server") == []
    platform.deploy("sort")
    platform.sorts()
    assert platform.end() == (0, "")
    asyncio.run(answers(server))


async def answers(server) -> None:
    async with client.connect(Platform(nats_url=server.url, token="s3cret")):
        pass


def test_a_password_in_the_address_of_nats_is_refused(up):
    nats_url = "nats://s3cret@127.0.0.1:4222"
    code, said = up("--nats", nats_url, "--http", "127.0.0.1:0").ended()
    assert code == 3
    assert "--nats-token-file" in said
    assert "s3cret" not in said


def test_a_call_in_flight_is_not_cut_by_a_stop(up):
    platform = up().ready()
    platform.deploy("sleepy")
    with Call(platform, "/sleepy", '{"args":["1"]}') as call:
        assert platform.end() == (0, "")
        assert b"slept 1 s" in call.answer()
    assert platform.pids() == []


def test_a_second_signal_ends_it_at_once(up):
    platform = up().ready()
    platform.deploy("sleepy")
    with Call(platform, "/sleepy", '{"args":["30"]}'):
        platform.process.send_signal(signal.SIGTERM)
        # Two signals that come before the first is taken are one.
        log = platform.data / "logs" / "router.log"
        deadline = time.monotonic() + 10
        while '"stopping"' not in log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        began = time.monotonic()
        assert platform.end()[0] == 130
    assert time.monotonic() - began < 5
    assert platform.pids() == []


def test_the_token_is_in_no_command_line_log_or_file_that_others_can_read(running):
    token = running.platform.token
    assert token
    for pid in running.pids():
        assert token not in told(pid)
    holders = [
        path
        for path in running.data.rglob("*")
        if path.is_file() and token.encode() in path.read_bytes()
    ]
    assert {path.name for path in holders} == {"nats.token", "nats.conf"}
    for path in [*holders, *(running.data / "keys").glob("*.key"), running.data / "run"]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    assert stat.S_IMODE((running.data / "run" / "platform.json").stat().st_mode) == 0o600


def test_the_commands_find_what_runs_and_say_when_nothing_does(up, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    with pytest.raises(NoPlatformError, match="wasmfn up"):
        find_platform(environ={})
    platform = up().ready()
    found = find_platform(environ={})
    assert found == platform.platform == find_platform(environ={"WASMFN_DATA": str(platform.data)})
    assert set(found.admin_urls) == set(SERVICES)
    platform.end()
    with pytest.raises(NoPlatformError, match="no platform is running here"):
        find_platform(environ={})
