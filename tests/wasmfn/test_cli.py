"""The command line against a real platform: each verb as a user types it."""

import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.scenarios.platforms.local import WASMFN, LocalPlatform

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPlatform]:
    with contextlib.closing(LocalPlatform(tmp_path_factory.mktemp("cli"))) as platform:
        platform.start()
        yield platform


def example(name: str) -> str:
    return str(EXAMPLES / name / f"{name}.wasm")


def ok(platform: LocalPlatform, *arguments: str, stdin: bytes = b"") -> str:
    done = platform.cli(*arguments, stdin=stdin)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def refused(platform: LocalPlatform, code: int, *arguments: str) -> str:
    done = platform.cli(*arguments)
    said = done.stderr.decode()
    assert (done.returncode, done.stdout) == (code, b""), said
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said


Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that runs a command beside the test. None outlives the test."""
    with contextlib.ExitStack() as running:

        def start(environ: dict[str, str], *command: str | Path) -> subprocess.Popen[bytes]:
            pipe = subprocess.PIPE
            process = subprocess.Popen(command, env=environ, stdout=pipe, stderr=pipe)
            running.enter_context(process)
            running.callback(process.terminate)
            return process

        yield start


def test_deploy_prints_the_url_and_the_milliseconds(platform: LocalPlatform) -> None:
    said = ok(platform, "deploy", example("sort"), "--name", "first", "--route", "POST:/first")
    assert re.fullmatch(rf"{platform.http}/first  POST  live in [0-9.]+ m?s\n", said)
    again = ok(platform, "deploy", example("sort"), "--name", "first")
    assert "live already, unchanged" in again
    told = json.loads(ok(platform, "deploy", example("hello"), "--name", "first", "-o", "json"))
    assert told["function"] == "first"
    assert told["changed"] is True
    assert told["routes"] == [
        {
            "function": "first",
            "path": "/first",
            "methods": ["POST"],
            "url": f"{platform.http}/first",
        }
    ]


def test_a_deployment_that_is_left_goes_on_and_that_is_said(
    platform: LocalPlatform, start: Start
) -> None:
    builder = json.loads((platform.data / "run" / "processes.json").read_bytes())["builder"]["pid"]
    os.kill(builder, signal.SIGSTOP)
    try:
        environ = platform.environ
        deploying = start(environ, WASMFN, "deploy", example("exit3"), "--name", "left")
        told = start(environ, WASMFN, "events", "-f", "--since", "1m", "--function", "left")
        assert told.stdout is not None
        assert any(b" building " in line for line in told.stdout)
        deploying.send_signal(signal.SIGINT)
        out, said = deploying.communicate(timeout=60)
    finally:
        os.kill(builder, signal.SIGCONT)
    assert (deploying.returncode, out) == (130, b"")
    assert b"what was published of left goes on; `wasmfn fn get left`" in said
    assert "live" in ok(platform, "deploy", example("exit3"), "--name", "left")


def test_a_deployment_that_is_left_before_it_published_anything_does_not_say_that_it_goes_on(
    platform: LocalPlatform, start: Start, tmp_path: Path
) -> None:
    module = tmp_path / "never.wasm"
    os.mkfifo(module)
    deploying = start(platform.environ, WASMFN, "deploy", module)
    # Opens once the deployment reads its module, and has no end until it is closed.
    with module.open("wb"):
        deploying.send_signal(signal.SIGINT)
    out, said = deploying.communicate(timeout=60)
    assert (deploying.returncode, out, said) == (130, b"", b"\n")
    refused(platform, 4, "fn", "get", "never")


def test_deploy_keeps_what_it_is_not_told(platform: LocalPlatform) -> None:
    ok(platform, "deploy", example("env"), "--name", "kept", "--timeout", "5s", "--env", "A=1")
    ok(platform, "deploy", example("env"), "--name", "kept", "--env", "B=2")
    (spec,) = yaml.safe_load_all(ok(platform, "fn", "get", "kept", "-o", "yaml"))
    assert spec["spec"]["limits"] == {"timeout_s": 5.0}
    assert spec["spec"]["variables"] == {"A": "1", "B": "2"}
    ok(platform, "fn", "update", "kept", "--unset", "A", "--memory", "64MiB")
    spec = json.loads(ok(platform, "fn", "get", "kept", "-o", "json"))["spec"]
    assert spec["variables"] == {"B": "2"}
    assert spec["limits"] == {"timeout_s": 5.0, "memory_mib": 64}


def test_an_image_of_its_own_is_refused_where_there_is_no_cluster(platform: LocalPlatform) -> None:
    own = ("deploy", "--image", "you/web:1", "--name", "own", "--executor", "deployment")
    assert "install wasmfn on a cluster" in refused(platform, 5, *own, "--port", "8080")
    assert "there is no" in refused(platform, 4, "fn", "get", "own")
    for words, said in (
        (("deploy", example("sort"), "--image", "x"), b"FILE, or --image"),
        (("deploy", "--image", "x"), b"needs a --name"),
    ):
        done = platform.cli(*words)
        assert done.returncode == 2
        assert said in done.stderr


def test_upstreams_commands_work_as_they_are_written(platform: LocalPlatform) -> None:
    ok(platform, "env", "create", "--name", "up-wasm", "--image", example("sort"))
    ok(platform, "fn", "create", "--name", "up", "--env", "up-wasm", "--code", example("sort"))
    ok(platform, "route", "create", "--url", "/up", "--method", "POST", "--function", "up")
    assert ok(platform, "fn", "test", "up", "3", "1", "2") == "1 2 3\n"
    assert "up" in ok(platform, "env", "list", "-o", "name")
    assert "/up" in ok(platform, "route", "list")
    assert "used by up" in refused(platform, 7, "env", "delete", "up-wasm")
    for kind, name in (("route", "up"), ("fn", "up"), ("env", "up-wasm")):
        ok(platform, kind, "delete", "--name", name)
        assert "there is no" in refused(platform, 4, kind, "get", name)


def test_create_refuses_what_is_there_and_update_what_is_not(platform: LocalPlatform) -> None:
    ok(platform, "fn", "create", "once", "--code", example("hello"))
    said = refused(platform, 7, "fn", "create", "once", "--code", example("hello"))
    assert "wasmfn fn update once" in said
    refused(platform, 4, "fn", "update", "never", "--timeout", "1s")
    assert "wasmfn route create --url /once" in refused(platform, 4, "fn", "test", "once")


def test_a_function_without_its_environment_is_told_and_not_waited_for(
    platform: LocalPlatform,
) -> None:
    said = refused(platform, 4, "deploy", example("hello"), "--name", "alone", "--env", "nowhere")
    assert "there is no environment default/nowhere" in said
    document = b"{kind: function, name: early, environment: later}"
    done = platform.cli("apply", "-f", "-", stdin=document)
    assert done.returncode == 0, done.stderr
    assert b"function default/early: waits for the environment 'later'" in done.stderr
    ok(platform, "env", "create", "later", "--image", example("hello"))
    ok(platform, "route", "create", "--url", "/early", "--function", "early")
    ok(platform, "fn", "update", "early")
    assert ok(platform, "fn", "test", "early") == "hello, world\n"


def test_a_route_to_a_function_that_is_not_there_is_made_and_told_of(
    platform: LocalPlatform,
) -> None:
    made = platform.cli("route", "create", "soon", "--url", "/soon", "--function", "typo")
    assert made.returncode == 0
    assert b"there is no function default/typo yet" in made.stderr
    ok(platform, "fn", "create", "late", "--code", example("sort"))
    moved = platform.cli("route", "update", "soon", "--function", "late")
    assert (moved.returncode, b"there is no" in moved.stderr) == (0, False)


def test_of_a_function_that_is_not_there_nothing_is_said_by_a_change_of_something_else(
    platform: LocalPlatform,
) -> None:
    ok(platform, "route", "create", "lone", "--url", "/lone", "--function", "nobody")
    for client in ("ann", "bob"):
        granted = platform.cli("route", "grant", "lone", "--client", client)
        assert granted.stdout.startswith(b"wfk_")
        assert granted.stderr.startswith(f"{client} may use route default/lone".encode())
    revoked = platform.cli("route", "revoke", "lone", "--client", "ann")
    assert revoked.stderr == b"ann may not use route default/lone any more\n"


def test_two_routes_that_collide_are_refused_by_name(platform: LocalPlatform) -> None:
    ok(platform, "route", "create", "a", "--url", "/same", "--method", "GET", "--function", "a")
    said = refused(
        platform, 5, "route", "create", "b", "--url", "/same", "--method", "GET", "--function", "b"
    )
    assert "/same" in said or "route a" in said
    assert ok(platform, "route", "list", "-o", "name").split().count("b") == 0
    ok(platform, "route", "delete", "a")


async def test_what_was_published_with_a_name_that_is_none_can_be_deleted(
    platform: LocalPlatform,
) -> None:
    async with platform.nats() as client:
        await client.bus.js.publish("wasmfn.specs.function.default.Odd_Name", b"{}")
    assert "Odd_Name" in ok(platform, "fn", "list", "-o", "name")
    ok(platform, "fn", "delete", "Odd_Name")
    assert "Odd_Name" not in ok(platform, "fn", "list", "-o", "name")


def test_every_listing_has_every_form(platform: LocalPlatform) -> None:
    ok(platform, "deploy", example("hello"), "--name", "listed")
    for kind in ("fn", "route"):
        assert "listed" in ok(platform, kind, "list", "-o", "name").splitlines()
        rows = ok(platform, kind, "list").splitlines()
        assert rows[0].startswith("NAME")
        assert any(row.startswith("listed") and "active" in row for row in rows)
        as_json = json.loads(ok(platform, kind, "list", "-o", "json"))
        as_yaml = yaml.safe_load(ok(platform, kind, "list", "-o", "yaml"))
        assert as_json == as_yaml
        assert {"kind", "name", "phase", "revision", "spec"} <= as_json[0].keys()
    assert "\x1b" not in ok(platform, "fn", "list")
    assert json.loads(ok(platform, "fn", "list", "-n", "empty", "-o", "json")) == []


def test_a_call_shows_output_and_fails_as_the_function_does(platform: LocalPlatform) -> None:
    ok(platform, "deploy", example("sort"), "--name", "called")
    assert ok(platform, "fn", "test", "called", "--", "-3", "7", "-10") == "-10 -3 7\n"
    failed = platform.cli("fn", "test", "called", "x")
    assert failed.returncode == 1
    assert b"stderr: sort: not an integer: x" in failed.stderr
    raw = json.loads(ok(platform, "fn", "test", "called", "1", "--raw"))
    assert raw["output"] == ["1"]
    ok(platform, "deploy", example("echo"), "--name", "echoes", "--interface", "stdin")
    data = bytes(range(256))
    assert platform.cli("fn", "test", "echoes", "--stdin", stdin=data).stdout == data


def test_ctrl_c_ends_a_call_that_is_waited_for(platform: LocalPlatform, start: Start) -> None:
    ok(platform, "deploy", example("sort"), "--name", "slow")
    with socket.create_server(("127.0.0.1", 0)) as router:
        url = f"http://127.0.0.1:{router.getsockname()[1]}"
        calling = start(platform.environ, WASMFN, "invoke", "slow", "1", "--http", url)
        router.settimeout(60)
        link, _ = router.accept()
        with link:
            assert link.recv(1)
            calling.send_signal(signal.SIGINT)
            out, said = calling.communicate(timeout=60)
    assert (calling.returncode, out, said) == (130, b"", b"\n")


def test_a_ctrl_c_that_is_meant_for_another_command_ends_no_call(
    platform: LocalPlatform, start: Start
) -> None:
    ok(platform, "deploy", example("sort"), "--name", "behind")
    body = b'{"status":0,"output":["1"]}'
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
    # So a shell without job control starts what shall run in the background.
    background = ("bash", "-c", 'trap "" INT; exec "$@"', "bash", WASMFN)
    with socket.create_server(("127.0.0.1", 0)) as router:
        url = f"http://127.0.0.1:{router.getsockname()[1]}"
        calling = start(platform.environ, *background, "invoke", "behind", "1", "--http", url)
        router.settimeout(60)
        link, _ = router.accept()
        with link:
            assert link.recv(1)
            calling.send_signal(signal.SIGINT)
            link.sendall(answer % (len(body), body))
            out, said = calling.communicate(timeout=60)
    assert (calling.returncode, out) == (0, b"1\n"), said


def test_a_function_log_shows_what_it_wrote(platform: LocalPlatform, start: Start) -> None:
    ok(platform, "deploy", example("stderr"), "--name", "logs")
    follow = start(platform.environ, WASMFN, "fn", "logs", "logs", "-f", "-o", "json")
    ok(platform, "fn", "test", "logs", "one\x1b[2Jtwo")
    assert follow.stdout is not None
    lines = [json.loads(follow.stdout.readline()) for _ in range(2)]
    follow.send_signal(signal.SIGINT)
    assert follow.wait(60) == 130
    assert lines[0]["text"] == "to stderr"
    shown = ok(platform, "fn", "logs", "logs", "--since", "5m")
    assert "to stderr" in shown
    assert "\x1b" not in shown
    refused(platform, 4, "fn", "logs", "nobody")


def test_apply_shows_changes_makes_them_and_prunes(platform: LocalPlatform, tmp_path: Path) -> None:
    file = tmp_path / "app.yaml"
    (tmp_path / "m.wasm").write_bytes(Path(example("hello")).read_bytes())
    text = """
kind: route
name: applied
function: applied
path: /applied
---
kind: function
name: applied
module: {file: m.wasm}
"""
    file.write_text(text)
    run = ("apply", "-n", "apps", "-f")
    dry = ok(platform, *run, str(file), "--dry-run", "--diff")
    assert "would create" in dry
    assert "+path: /applied" in dry
    assert json.loads(ok(platform, "fn", "list", "-n", "apps", "-o", "json")) == []
    ok(platform, *run, str(file))
    assert ok(platform, "fn", "test", "applied", "-n", "apps") == "hello, world\n"
    assert ok(platform, *run, str(file)).split() == [
        "unchanged", "function", "apps/applied", "unchanged", "route", "apps/applied",
    ]  # fmt: skip
    file.write_text(text.replace("path: /applied", "path: /applied\nmethod: [GET]"))
    said = refused(platform, 5, *run, str(file))
    assert "app.yaml, document 1: there is no field `method`; did you mean `methods`?" in said
    file.write_text(text.partition("---")[2])
    assert "delete" in ok(platform, *run, str(file), "--prune")
    assert ok(platform, "route", "list", "-n", "apps", "-o", "name") == ""


def test_an_export_applies_to_nothing_new_and_carries_its_modules(
    platform: LocalPlatform, tmp_path: Path
) -> None:
    ok(platform, "deploy", example("sort"), "--name", "exported", "-n", "backup")
    text = ok(platform, "export", "-n", "backup", "--modules", str(tmp_path / "modules"))
    assert "sha256" not in text
    (tmp_path / "backup.yaml").write_text(text)
    applied = ok(platform, "apply", "-f", str(tmp_path / "backup.yaml"))
    assert {line.split()[0] for line in applied.splitlines()} == {"unchanged"}
    assert ok(platform, "export", "-n", "nothing") == ""
    everything = ok(platform, "export", "-A")
    again = ok(platform, "apply", "-f", "-", stdin=everything.encode())
    assert {line.split()[0] for line in again.splitlines()} == {"unchanged"}


def on_a_terminal(platform: LocalPlatform, *arguments: str, **environ: str) -> str:
    """Return what a command writes to a terminal."""
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [WASMFN, *arguments],
        env={**platform.environ, "TERM": "xterm-256color", **environ},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        timeout=60,
        check=False,
    )
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):
        while chunk := os.read(ours, 65536):
            said += chunk
    os.close(ours)
    assert done.returncode == 0, said
    return said.decode()


def test_a_terminal_gets_colour_unless_it_does_not_want_it(platform: LocalPlatform) -> None:
    ok(platform, "deploy", example("hello"), "--name", "coloured")
    assert "\x1b[32mactive" in on_a_terminal(platform, "fn", "list")
    for environ in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert "\x1b[3" not in on_a_terminal(platform, "fn", "list", **environ)
    assert "live in" in on_a_terminal(platform, "deploy", example("sort"), "--name", "coloured")


def test_events_are_lines_and_json_lines(platform: LocalPlatform) -> None:
    ok(platform, "deploy", example("burn"), "--name", "eventful")
    text = ok(platform, "events", "--since", "5m", "--function", "eventful")
    assert "spec-published" in text
    assert "compile" in text
    events = [
        json.loads(line)
        for line in ok(
            platform, "events", "--since", "5m", "--function", "eventful", "--json"
        ).splitlines()
    ]
    assert [event["what"] for event in events if event["kind"] == "function"][-1] == "active"
    correlation = events[0]["correlation"]
    same = ok(platform, "events", "--since", "5m", "--request", correlation, "--json")
    assert len(same.splitlines()) == len(events)


def test_a_long_listing_into_head_ends_quietly(platform: LocalPlatform) -> None:
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {WASMFN} events --since 1h | head -n 1"],
        env=platform.environ,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b"\n") == 1


def test_doctor_finds_a_well_platform_well_and_names_what_is_not(platform: LocalPlatform) -> None:
    said = ok(platform, "doctor")
    assert all(line.startswith("ok") for line in said.splitlines())
    for name in ("router", "scheduler", "nats", "streams", "leader", "keepers", "disk", "clock"):
        assert f"ok    {name} " in said
    bare = platform.cli("doctor", "--nats", "nats://127.0.0.1:1")
    assert bare.returncode == 1
    assert b"BAD   nats" in bare.stdout


def test_a_secret_reaches_the_function_and_nothing_else(platform: LocalPlatform) -> None:
    ok(platform, "secret", "create", "db", "password", stdin=b"hunter2\n")
    ok(platform, "deploy", example("env"), "--name", "secretive", "--secret", "PW=db/password")
    assert "PW=hunter2" in ok(platform, "fn", "test", "secretive").splitlines()
    for arguments in (
        ("fn", "get", "secretive", "-o", "json"), ("export", "-A"),
        ("events", "--since", "1h", "--json"), ("secret", "list"),
    ):  # fmt: skip
        assert "hunter2" not in ok(platform, *arguments)


def test_dev_deploys_again_when_the_file_changes(
    platform: LocalPlatform, start: Start, tmp_path: Path
) -> None:
    module = tmp_path / "dev.wasm"
    module.write_bytes(Path(example("hello")).read_bytes())
    dev = start(platform.environ, sys.executable, "-u", WASMFN, "dev", module)
    assert dev.stdout is not None

    def until(words: str) -> None:
        for line in dev.stdout or ():
            if words in line.decode():
                return
        raise AssertionError(f"dev ended without saying {words}")

    until("live in")
    assert ok(platform, "fn", "test", "dev") == "hello, world\n"
    new = tmp_path / "new"
    new.write_bytes(Path(example("stderr")).read_bytes())
    new.replace(module)
    until("live in")
    assert ok(platform, "fn", "test", "dev").startswith("to stdout")
    until("to stderr")
    module.write_text("no module")
    until("not a WebAssembly module")
    dev.send_signal(signal.SIGINT)
    assert dev.wait(60) == 130
    assert ok(platform, "fn", "test", "dev").startswith("to stdout")


def test_demo_shows_the_answer_and_the_cold_start_and_leaves_nothing(tmp_path: Path) -> None:
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [WASMFN, "demo", "--once"], env=environ, capture_output=True, timeout=90, check=False
    )
    said = done.stdout.decode()
    assert done.returncode == 0, done.stderr.decode()
    assert '"output":["8 1111 2345"]' in said, said
    assert "cold start" in said
    assert "scheduler: signed call" in said, said
    assert "█" in said
    assert list(tmp_path.glob("wasmfn-demo-*")) == []


def test_demo_lets_play_until_it_is_interrupted(start: Start, tmp_path: Path) -> None:
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    demo = start(environ, WASMFN, "demo", "--http", f"127.0.0.1:{port}")
    assert demo.stdout is not None
    for line in demo.stdout:
        if b"wasmfn events -f" in line:
            break
    called = subprocess.run(
        [WASMFN, "fn", "test", "sort", "2", "1"], env=environ, capture_output=True, check=True
    )
    assert called.stdout == b"1 2\n"
    demo.send_signal(signal.SIGINT)
    _, said = demo.communicate(timeout=90)
    assert (demo.returncode, said) == (0, b"")
    assert list(tmp_path.glob("wasmfn-demo-*")) == []
