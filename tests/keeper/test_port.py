"""The control port of whole keepers: who is obeyed, and which child gets a call."""

import contextlib
import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from keeper.spares import MOST
from schemas.control import UnloadRequest, encode_load
from schemas.specs import Limits
from tests.keeper.conftest import refusal

Start = Callable[..., Any]


def test_health_is_open_and_says_which_process_answers(keeper: Any, compiler: Any) -> None:
    assert keeper.health["keeper"] == keeper.id
    assert keeper.health["engine"] == compiler.engine_hash
    assert keeper.health["capacity"] == 128


def test_a_function_is_loaded_called_and_unloaded(keeper: Any) -> None:
    loaded = keeper.load("sort")
    assert loaded.run("1111", "2345", "8") == {
        "status": 0,
        "output": ["8 1111 2345"],
        "exit_code": 0,
        "stderr": "",
    }
    assert set(loaded.reply.steps_ms) == {"fork", "body", "artifact", "prepare", "confine"}
    watch = keeper.watch()
    assert keeper.unload(loaded.instance, "drain").state == "draining"
    assert watch.gone(loaded.instance) == "drained"
    watch.close()


def test_who_has_not_heard_that_an_instance_ends_is_told_or_refused_and_never_cut(
    keeper: Any,
) -> None:
    statuses = set()
    for _ in range(10):
        loaded = keeper.load("sort")
        assert keeper.unload(loaded.instance, "drain").state == "draining"
        # Refused: it took us long, and nothing was sent.
        with contextlib.suppress(ConnectionRefusedError):
            statuses.add(loaded.call('{"args": ["1"]}')[0])
    assert statuses == {421}


@pytest.mark.parametrize("connected", [False, True])
def test_who_has_nothing_to_do_at_its_drain_deadline_does_not_say_that_it_has(
    keeper: Any, connected: bool
) -> None:
    loaded = keeper.load("sort")
    watch = keeper.watch()
    with contextlib.closing(loaded.connect()) as client:
        if connected:
            client.connect()
        assert keeper.unload(loaded.instance, "drain", deadline_s=0.05).state == "draining"
        assert watch.gone(loaded.instance) == "drained"
    watch.close()


def test_an_unsigned_or_wrongly_signed_call_changes_nothing(keeper: Any) -> None:
    request, code = keeper.request("hello")
    body = encode_load(request, code)
    assert keeper.http("POST", "/load", body)[0] == 401
    headers = keeper.signature("POST", "/load", body)
    assert keeper.http("POST", "/unload", body, headers)[0] == 401
    assert keeper.http("POST", "/load", body + b"x", headers)[0] == 401
    assert keeper.http("GET", "/watch")[0] == 401
    other = keeper.signature("POST", "/load", body, boot="another process")
    assert keeper.http("POST", "/load", body, other)[0] == 401


def test_a_replayed_call_is_refused(keeper: Any) -> None:
    body = msgspec.json.encode(UnloadRequest("nobody", "drain"))
    headers = keeper.signature("POST", "/unload", body)
    assert keeper.http("POST", "/unload", body, headers)[0] == 404
    status, answer = keeper.http("POST", "/unload", body, headers)
    assert (status, msgspec.json.decode(answer)["problem"]) == (403, "replay")


def test_a_deposed_leader_is_refused(start_keeper: Start) -> None:
    keeper = start_keeper()
    keeper.term = 5
    keeper.load("hello")
    keeper.term = 4
    assert refusal(lambda: keeper.load("hello")) == (403, "stale-term")


def test_a_full_keeper_says_so(start_keeper: Start) -> None:
    keeper = start_keeper("--capacity", "1")
    keeper.load("hello")
    assert refusal(lambda: keeper.load("hello")) == (507, "full")


def test_unloading_who_is_not_there_is_404(keeper: Any) -> None:
    assert refusal(lambda: keeper.unload("nobody", "drain")) == (404, "no-such-instance")


def test_a_busy_or_recently_used_instance_is_not_unloaded_as_idle(keeper: Any) -> None:
    loaded = keeper.load("burn", limits=Limits(timeout_s=30))
    assert loaded.run("1")["status"] == 0
    reply = keeper.unload(loaded.instance, "if_idle", idle_s=60)
    assert reply.state == "busy"
    assert 0 <= reply.idle_s < 60
    running = threading.Thread(target=loaded.run, args=("400000000",))
    running.start()
    while not keeper.in_flight(loaded.instance):
        pass
    assert keeper.unload(loaded.instance, "if_idle", idle_s=0).state == "busy"
    running.join()
    assert keeper.unload(loaded.instance, "if_idle", idle_s=0).state == "draining"


def test_unload_by_force_ends_it_at_once(keeper: Any) -> None:
    loaded = keeper.load("hello")
    watch = keeper.watch()
    assert keeper.unload(loaded.instance, "kill").state == "gone"
    assert "unloaded by force" in watch.gone(loaded.instance)
    watch.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 5000,
        b"\r\n\r\n",
        b"POST /load HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\n\r\n",
    ],
)
def test_garbage_on_the_control_port_is_answered_or_dropped(keeper: Any, garbage: bytes) -> None:
    with socket.create_connection(("127.0.0.1", keeper.port), 10) as connection:
        connection.sendall(garbage)
        with contextlib.suppress(OSError):
            answer = connection.recv(100)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert keeper.http("GET", "/healthz")[0] == 200


def test_slow_and_many_clients_do_not_keep_others_out(keeper: Any) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            connection = socket.create_connection(("127.0.0.1", keeper.port), 10)
            stack.enter_context(connection)
            connection.sendall(b"GET /healthz HTT")
        before = time.process_time_ns()
        assert keeper.http("GET", "/healthz")[0] == 200
        assert time.process_time_ns() > before


def test_a_head_that_comes_byte_by_byte_costs_no_spinning(start_keeper: Start) -> None:
    keeper = start_keeper()
    with socket.create_connection(("127.0.0.1", keeper.port), 10) as connection:
        head = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
        for i in range(len(head)):
            connection.sendall(head[i : i + 1])
        assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_watchers_that_leave_make_room_for_others(keeper: Any) -> None:
    for _ in range(40):
        keeper.watch().close()
    with contextlib.ExitStack() as stack:
        for _ in range(16):
            stack.callback(keeper.watch().close)
        assert keeper.signed("GET", "/watch")[0] == 507


def test_loads_at_once_are_all_answered(start_keeper: Start) -> None:
    keeper = start_keeper()
    keeper.load("hello")
    results: list[Any] = []
    calls = []
    for _ in range(20):
        request, _ = keeper.request("hello")
        body = encode_load(request, b"")
        calls.append((body, keeper.signature("POST", "/load", body)))
    threads = [
        threading.Thread(target=lambda b=b, h=h: results.append(keeper.http("POST", "/load", b, h)))  # type: ignore[misc]
        for b, h in reversed(calls)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [status for status, _ in results] == [200] * 20
    assert len({msgspec.json.decode(answer)["port"] for _, answer in results}) == 20


def test_a_spare_child_waits_and_is_replaced(
    start_keeper: Start, wait_for: Callable[..., None]
) -> None:
    keeper = start_keeper()
    wait_for(lambda: len(keeper.children()) == 1)
    (spare,) = keeper.children()
    # Blocked in recvmsg: it has warmed up.
    wait_for(lambda: Path(f"/proc/{spare}/syscall").read_text().startswith("47 "))
    assert keeper.load("hello").reply.pid == spare
    wait_for(lambda: len(keeper.children()) == 2)
    (other,) = set(keeper.children()) - {spare}
    os.kill(other, signal.SIGKILL)
    wait_for(lambda: other not in keeper.children())
    assert keeper.load("hello").run()["status"] == 0


def test_function_ports_come_from_the_range_that_is_given(start_keeper: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    keeper = start_keeper("--function-ports", f"{port}-{port}")
    assert keeper.load("hello").reply.port == port
    assert refusal(lambda: keeper.load("hello")) == (507, "full")


def test_a_burst_of_loads_leaves_more_spare_children_waiting(
    start_keeper: Start, wait_for: Callable[..., None]
) -> None:
    keeper = start_keeper()
    keeper.load("hello")
    os.kill(keeper.process.pid, signal.SIGSTOP)
    callers = []
    for _ in range(4):  # so that all are there when it looks
        request, _ = keeper.request("hello")
        body = encode_load(request, b"")
        caller = http.client.HTTPConnection("127.0.0.1", keeper.port, timeout=60)
        caller.request("POST", "/load", body, keeper.signature("POST", "/load", body))
        callers.append(caller)
    os.kill(keeper.process.pid, signal.SIGCONT)
    for caller in callers:
        assert caller.getresponse().status == 200
        caller.close()
    wait_for(lambda: len(keeper.children()) == 5 + MOST)
    assert json.loads(keeper.http("GET", "/healthz")[1])["loaded"] == 5
