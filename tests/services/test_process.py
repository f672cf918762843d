"""A service process as its supervisor sees it: a real process, signals, sockets and HTTP."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

PREAMBLE = """
import asyncio, logging
from services.process import PublicError, ServiceSettings, serve

class Settings(ServiceSettings, frozen=True, kw_only=True):
    color: str = "red"

log = logging.getLogger("test")
"""


class Service:
    """A running service and its supervisor's notify socket."""

    def __init__(self, directory: Path, source: str, **environ: str) -> None:
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(directory / "notify"))
        self._notify.settimeout(30)
        (directory / "service.py").write_text(PREAMBLE + textwrap.dedent(source))
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(directory / "service.py")],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "NOTIFY_SOCKET": str(directory / "notify"), **environ},
        )

    def told(self) -> dict[str, str]:
        """Return the next message to the supervisor."""
        return dict(line.split("=", 1) for line in self._notify.recv(4096).decode().splitlines())

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, list[dict]]:
        """Return the exit code and every log line, which must be JSON."""
        _, text = self.process.communicate(timeout=30)
        return self.process.returncode, [json.loads(line) for line in text.splitlines()]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        with contextlib.suppress(ValueError):
            self.process.communicate()
        self._notify.close()


@pytest.fixture
def start(tmp_path) -> Iterator:
    services: list[Service] = []

    def start(source: str, **environ: str) -> Service:
        services.append(Service(tmp_path, source, **environ))
        return services[-1]

    yield start
    for service in services:
        service.close()


ORDERLY = """
async def main(process, settings):
    process.ready.needs("color").met()
    log.info("hello", extra={"color": settings.color})
    await process.stopping.wait()
    log.info("drained")

serve("tester", Settings, main)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_ready_and_a_signal_ends_it_in_order(start, number):
    service = start(ORDERLY, WASMFN_TESTER_COLOR="blue")
    told = service.told()
    assert told["READY"] == "1"
    with httpx.Client(base_url=told["X_WASMFN_ADMIN"]) as admin:
        assert admin.get("/healthz").json()["pid"] == service.process.pid
        assert admin.get("/readyz").json() == {"ready": True, "waiting_for": {}}
        assert "python_info" in admin.get("/metrics").text
    service.signal(number)
    assert service.told() == {"STOPPING": "1"}
    code, lines = service.end()
    assert code == 0
    assert {line["service"] for line in lines} == {"tester"}
    said = [line["message"] for line in lines]
    assert said.index("stopping") < said.index("drained")
    (hello,) = (line for line in lines if line["message"] == "hello")
    assert hello["fields"] == {"color": "blue"}
    assert hello["level"] == "info"
    assert hello["time"].endswith("Z")


def test_readyz_says_what_is_missing_until_it_is_there(start, tmp_path):
    go = tmp_path / "go"
    os.mkfifo(go)
    service = start(
        f"""
        async def main(process, settings):
            routes = process.ready.needs("routes", "no snapshot yet")
            log.info("here", extra={{"admin": process.admin_url}})
            await asyncio.to_thread(open, {str(go)!r})
            routes.met()
            await process.stopping.wait()

        serve("tester", Settings, main)
        """
    )
    assert service.process.stderr is not None
    url = json.loads(service.process.stderr.readline())["fields"]["admin"]
    missing = httpx.get(url + "/readyz")
    assert missing.status_code == 503
    assert missing.json() == {"ready": False, "waiting_for": {"routes": "no snapshot yet"}}
    go.write_text("")
    assert service.told()["X_WASMFN_ADMIN"] == url
    assert httpx.get(url + "/readyz").status_code == 200


def test_a_part_that_crashes_ends_the_process_with_a_sentence_and_its_traceback(start):
    service = start(
        """
        async def part():
            raise KeyError("gone")

        async def main(process, settings):
            process.start(part(), "the follower")
            try:
                await process.stopping.wait()
            finally:
                log.info("cleaned up")

        serve("tester", Settings, main)
        """
    )
    code, lines = service.end()
    assert code == 1
    assert lines[0]["message"] == "cleaned up"
    assert lines[-1]["message"] == "the tester failed in the follower: 'gone'"
    assert "KeyError" in lines[-1]["traceback"]


def test_a_public_error_is_told_without_a_traceback(start):
    service = start(
        """
        async def main(process, settings):
            raise PublicError("no disk: plug one in")

        serve("tester", Settings, main)
        """
    )
    code, lines = service.end()
    assert code == 1
    assert [line["message"] for line in lines] == [
        "the tester failed in main: no disk: plug one in"
    ]
    assert "traceback" not in lines[0]


def test_a_main_that_returns_untold_is_a_failure(start):
    service = start(
        """
        async def main(process, settings):
            pass

        serve("tester", Settings, main)
        """
    )
    code, lines = service.end()
    assert code == 1
    assert "ended by itself" in lines[-1]["message"]


SLOW = """
async def main(process, settings):
    process.ready.needs("it").met()
    try:
        await asyncio.Event().wait()
    finally:
        log.info("cut off")

serve("tester", Settings, main)
"""


def test_work_that_does_not_end_is_cut_off_after_the_grace(start):
    service = start(SLOW, WASMFN_TESTER_GRACE_S="0.1")
    service.told()
    service.signal(signal.SIGTERM)
    code, lines = service.end()
    assert code == 0
    said = [line["message"] for line in lines]
    assert said[-2:] == ["work in flight did not end within 0.1 s; cancelling it", "cut off"]


def test_a_second_signal_ends_it_at_once(start):
    service = start(SLOW)
    service.told()
    service.signal(signal.SIGTERM)
    assert service.told() == {"STOPPING": "1"}
    service.signal(signal.SIGTERM)
    code, lines = service.end()
    assert code == 128 + signal.SIGTERM
    assert lines[-1]["message"] == "told twice to stop; leaving at once"


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"WASMFN_TESTER_COLOUR": "x"}, "there is no setting WASMFN_TESTER_COLOUR"),
        ({"WASMFN_TESTER_GRACE_S": "soon"}, "WASMFN_TESTER_GRACE_S"),
        ({"WASMFN_TESTER_LOG_LEVEL": "loud"}, "WASMFN_TESTER_LOG_LEVEL"),
    ],
)
def test_wrong_settings_end_it_with_the_variables_name(start, environ, sentence):
    code, lines = start(ORDERLY, **environ).end()
    assert code == 2
    (line,) = lines
    assert sentence in line["message"]
    assert "traceback" not in line


def test_an_admin_port_in_use_is_one_sentence(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, lines = start(ORDERLY, WASMFN_TESTER_ADMIN=address).end()
    assert code == 1
    assert lines[-1]["message"] == (
        f"the tester failed: cannot listen on the admin address {address}: Address already in use"
    )


def test_a_nats_that_is_not_there_is_one_sentence(start):
    service = start(
        """
        from services.bus.connection import connect

        async def main(process, settings):
            async with connect(settings, process.name):
                await process.stopping.wait()

        serve("tester", Settings, main)
        """,
        WASMFN_TESTER_NATS_URL="nats://user:hunter2@127.0.0.1:1",
        WASMFN_TESTER_NATS_WAIT_S="0.1",
    )
    code, lines = service.end()
    assert code == 1
    assert len(lines) == 1
    assert "nats://127.0.0.1:1; start a server there" in lines[0]["message"]
    assert "hunter2" not in json.dumps(lines)


def test_what_is_no_text_is_logged_all_the_same(start):
    service = start(
        """
        async def main(process, settings):
            log.error("name %s", "\\udcff", extra={"key": {1: object()}})
            raise PublicError("done")

        serve("tester", Settings, main)
        """
    )
    _, lines = service.end()
    assert lines[0]["message"] == "name \udcff"
