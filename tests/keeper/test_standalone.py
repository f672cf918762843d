"""`python -m keeper --mod-path`: one module, no token, as upstream's keeper served it."""

import contextlib
import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def command(name: str, port: int, *flags: str) -> list[str]:
    module = str(EXAMPLES / name / f"{name}.wasm")
    head = [sys.executable, "-P", "-m", "keeper", "--mod-path", module]
    return [*head, "--host", "127.0.0.1", "--port", str(port), *flags]


@contextlib.contextmanager
def serving(name: str, *flags: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    with subprocess.Popen(command(name, 0, *flags), stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            text: str = json.loads(process.stdout.readline())["text"]
            yield process, int(text.rstrip("/").rpartition(":")[2])
        finally:
            process.terminate()


def post(port: int, body: bytes, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", "/", body, headers)
        response = connection.getresponse()
        return response.status, response.read()


def test_upstreams_client_works_unchanged() -> None:
    with serving("sort") as (process, port):
        status, body = post(port, b'{"args":["1111","2345","8"]}')
        assert status == 200
        assert json.loads(body)["output"] == ["8 1111 2345"]
        assert post(port, b"")[0] == 200
        process.terminate()
        assert process.wait(60) == 0


def test_a_port_in_use_is_an_error_with_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = subprocess.run(
            command("sort", taken.getsockname()[1]),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode == 1
    assert ended.stderr.startswith("keeper: cannot listen at 127.0.0.1:")
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "says"), [(b"text", "not a WebAssembly module"), (None, "cannot read the module")]
)
def test_a_module_that_can_not_run_is_an_error_with_a_sentence(
    content: bytes | None, says: str, tmp_path: Path
) -> None:
    module = tmp_path / "x.wasm"
    if content is not None:
        module.write_bytes(content)
    flags: Any = ["--mod-path", str(module), "--host", "127.0.0.1", "--port", "0"]
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "keeper", *flags],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert says in ended.stderr


def test_limits_and_variables_are_flags() -> None:
    with serving("env", "--env", "A=1", "--env", "B=x=y") as (_, port):
        assert json.loads(post(port, b"")[1])["output"] == ["A=1", "B=x=y"]
    with serving("spin", "--timeout", "0.2") as (_, port):
        assert post(port, b"")[0] == 504


def test_a_wrong_flag_is_a_sentence() -> None:
    ended = subprocess.run(
        command("sort", 0, "--timeout", "-1"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "timeout_s" in ended.stderr


def test_a_function_stuck_in_a_host_call_does_not_end_the_server() -> None:
    with serving("sleepy", "--timeout", "0.5") as (_, port):
        assert post(port, b'{"args":["86400"]}')[0] == 504
        assert json.loads(post(port, b'{"args":["0"]}')[1])["status"] == 0
