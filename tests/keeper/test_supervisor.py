"""Whole keepers: real processes, real control calls, real modules."""

import contextlib
import http.client
import json
import os
import select
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
from schemas.control import (
    InstanceState,
    UnloadRequest,
    WatchSnapshot,
    WatchTick,
    encode_load,
)
from schemas.names import new_instance_id
from schemas.specs import Limits
from tests.keeper.memory import in_memory

Start = Callable[..., Any]


def refusal(action: Callable[[], object]) -> tuple[int, str]:
    with pytest.raises(Exception, match=r"^\d{3} ") as caught:
        action()
    return caught.value.status, caught.value.problem  # type: ignore[attr-defined]


def of(instance: str, state: str) -> Callable[[InstanceState], bool]:
    return lambda it: (it.instance, it.state) == (instance, state)


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
    assert watch.until(of(loaded.instance, "gone")).reason == "drained"
    watch.close()


def test_a_function_gets_its_arguments_variables_and_name(keeper: Any) -> None:
    loaded = keeper.load("env", variables={"PASSWORD": "hunter2", "A": "b"})
    assert loaded.run()["output"] == ["A=b", "PASSWORD=hunter2"]
    hello = keeper.load("hello", arguments=("spec",))
    assert hello.run("request")["output"] == ["hello, spec"]


def test_the_second_load_takes_the_artifact_from_the_cache(start_keeper: Start) -> None:
    keeper = start_keeper()
    assert refusal(lambda: keeper.load("hello", send_code=False)) == (424, "artifact-missing")
    keeper.load("hello")
    assert keeper.load("hello", send_code=False).run()["output"] == ["hello, world"]


def test_a_process_that_lacked_its_artifact_is_not_told_as_the_end_of_its_instance(
    start_keeper: Start,
) -> None:
    keeper = start_keeper()
    watch = keeper.watch()
    request, code = keeper.request("hello")
    assert refusal(lambda: keeper.load_request(request, b"")) == (424, "artifact-missing")
    keeper.load_request(request, code)
    told = watch.until(lambda it: it.instance == request.instance)
    assert told.instance.state == "serving"
    watch.close()


def test_what_the_builder_did_not_sign_is_not_run(start_keeper: Start) -> None:
    keeper = start_keeper()
    request, code = keeper.request("hello")
    altered = code[:-1] + bytes([code[-1] ^ 1])
    assert refusal(lambda: keeper.load_request(request, altered)) == (422, "bad-artifact")
    artifact, _ = keeper.artifact("sort")
    stranger = msgspec.structs.replace(artifact, signature="00" * 64)
    forged = msgspec.structs.replace(request, artifact=stranger)
    _, sort_code = keeper.artifact("sort")
    assert refusal(lambda: keeper.load_request(forged, sort_code)) == (422, "bad-artifact")


def test_an_altered_file_in_the_cache_is_not_run(start_keeper: Start) -> None:
    keeper = start_keeper()
    keeper.load("hello")
    (file,) = keeper.cache.iterdir()
    file.chmod(0o600)
    file.write_bytes(keeper.artifact("sort")[1])
    assert refusal(lambda: keeper.load("hello", send_code=False)) == (422, "bad-artifact")


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


def test_who_takes_an_instance_id_that_is_taken_is_ended(start_keeper: Start) -> None:
    keeper = start_keeper()
    first = keeper.load("hello")
    # It may answer before it is ended.
    with contextlib.suppress(OSError, http.client.HTTPException):
        keeper.load("hello", instance=first.instance)
    keeper.log_until(lambda line: "an instance of this id is loaded already" in line["text"])
    assert first.run()["status"] == 0


def test_a_load_that_makes_no_sense_is_a_sentence(keeper: Any) -> None:
    status, answer = keeper.signed("POST", "/load", b"\0\0\0\x02{}")
    assert (status, msgspec.json.decode(answer)["problem"]) == (400, "bad-request")
    assert keeper.signed("POST", "/load", b"\xff\xff\xff\xff")[0] == 400
    assert keeper.signed("POST", "/nowhere")[0] == 400
    assert keeper.signed("POST", "/unload", b"{}")[0] == 400


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


def test_draining_answers_421_to_new_requests_and_finishes_what_runs(keeper: Any) -> None:
    loaded = keeper.load("burn", limits=Limits(timeout_s=30))
    results: list[dict[str, Any]] = []
    with contextlib.closing(loaded.connect()) as idle:
        idle.connect()
        running = threading.Thread(target=lambda: results.append(loaded.run("300000000")))
        running.start()
        while not keeper.in_flight(loaded.instance):
            pass
        watch = keeper.watch()
        assert keeper.unload(loaded.instance, "drain").state == "draining"
        idle.request("POST", "/", b"", {"x-wasmfn-instance": loaded.token})
        answer = idle.getresponse()
        assert (answer.status, answer.headers["x-wasmfn-reason"]) == (421, "draining")
        running.join()
    assert results[0]["status"] == 0
    assert watch.until(of(loaded.instance, "gone")).reason == "drained"
    watch.close()


def test_a_drain_deadline_ends_even_an_endless_request(keeper: Any) -> None:
    loaded = keeper.load("spin", limits=Limits(timeout_s=60))
    watch = keeper.watch()
    with contextlib.closing(loaded.connect()) as connection:
        connection.request("POST", "/", b"", {"x-wasmfn-instance": loaded.token})
        keeper.unload(loaded.instance, "drain", deadline_s=0.2)
        gone = watch.until(of(loaded.instance, "gone"))
        assert "deadline" in gone.reason
    watch.close()


def test_unload_by_force_ends_it_at_once(keeper: Any) -> None:
    loaded = keeper.load("hello")
    watch = keeper.watch()
    assert keeper.unload(loaded.instance, "kill").state == "gone"
    assert "unloaded by force" in watch.until(of(loaded.instance, "gone")).reason
    watch.close()


def test_the_watch_begins_with_everything_and_tells_of_a_killed_child(keeper: Any) -> None:
    loaded = keeper.load("hello")
    watch = keeper.watch()
    snapshot = watch.next()
    assert isinstance(snapshot, WatchSnapshot)
    assert (snapshot.keeper, snapshot.boot) == (keeper.id, keeper.boot)
    (seen,) = [i for i in snapshot.instances if i.instance == loaded.instance]
    assert (seen.function, seen.state, seen.pid) == ("hello", "serving", loaded.reply.pid)
    os.kill(loaded.reply.pid, signal.SIGKILL)
    gone = watch.until(of(loaded.instance, "gone"))
    assert gone.reason == "killed by SIGKILL: not by the keeper"
    watch.close()


def test_the_watch_ticks(keeper: Any) -> None:
    watch = keeper.watch()
    while not isinstance(watch.next(), WatchTick):
        pass
    watch.close()


def test_a_call_stuck_in_a_host_call_is_504_and_ends_its_child_only(keeper: Any) -> None:
    stuck = keeper.load("sleepy", limits=Limits(timeout_s=0.2))
    other = keeper.load("hello")
    watch = keeper.watch()
    with contextlib.closing(stuck.connect()) as connection:
        body = b'{"args": ["86400"]}'
        connection.request("POST", "/", body, {"x-wasmfn-instance": stuck.token})
        assert other.run()["status"] == 0
        response = connection.getresponse()
        assert response.status == 504
        assert json.loads(response.read())["error"] == "timed out after 0.2 s, in a host call"
        assert "stuck in a host call" in watch.until(of(stuck.instance, "gone")).reason
    assert other.run()["status"] == 0
    watch.close()


def test_stderr_and_failures_are_in_the_log_with_their_request(keeper: Any) -> None:
    loaded = keeper.load("exit3")
    loaded.call(headers={"x-request-id": "req-77"})
    printed = keeper.log_until(lambda line: line.get("stream") == "stderr")
    assert printed["text"] == "exit3: giving up"
    assert printed["request_id"] == "req-77"
    assert (printed["namespace"], printed["function"]) == ("default", "exit3")
    failed = keeper.log_until(
        lambda line: (
            line.get("instance") == loaded.instance and "the invocation failed" in line["text"]
        )
    )
    assert failed["text"] == "the invocation failed (200): exited with code 3"


def test_secrets_are_in_no_log_and_no_process_list(keeper: Any) -> None:
    loaded = keeper.load("exit3", variables={"PASSWORD": "hunter2-secret"})
    loaded.run()
    keeper.log_until(lambda line: line.get("instance") == loaded.instance)
    assert b"hunter2" not in keeper.log_file.read_bytes()
    for process in (keeper.process.pid, loaded.reply.pid):
        with open(f"/proc/{process}/cmdline", "rb") as file:  # noqa: PTH123 -- one of many
            assert b"hunter2" not in file.read()


def test_a_secret_sent_to_one_child_is_not_where_later_children_come_from(
    start_keeper: Start,
) -> None:
    keeper = start_keeper()
    secret = "hunter2-" + new_instance_id()
    keeper.load("hello")
    request, _ = keeper.request("hello", variables={"PASSWORD": secret})
    body = encode_load(request, b"")
    headers = keeper.signature("POST", "/load", body)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST /load HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{lines}\r\n"
    with socket.create_connection(("127.0.0.1", keeper.port), 10) as connection:
        # In one piece: whoever looks for the end of the head sees the body too.
        connection.sendall(head.encode() + body)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert not in_memory(keeper.process.pid, secret.encode())
    assert not in_memory(keeper.zygote, secret.encode())


def test_sigterm_drains_and_exits_0(start_keeper: Start) -> None:
    keeper = start_keeper()
    loaded = keeper.load("burn", limits=Limits(timeout_s=30))
    results: list[dict[str, Any]] = []
    running = threading.Thread(target=lambda: results.append(loaded.run("300000000")))
    running.start()
    while not keeper.in_flight(loaded.instance):
        pass
    keeper.process.terminate()
    assert keeper.process.wait(60) == 0
    running.join()
    assert results[0]["status"] == 0


def test_sigterm_ends_within_its_bound_whatever_runs(start_keeper: Start) -> None:
    keeper = start_keeper("--drain-s", "0.2")
    loaded = keeper.load("spin", limits=Limits(timeout_s=3600))
    with contextlib.closing(loaded.connect()) as connection:
        connection.request("POST", "/", b"", {"x-wasmfn-instance": loaded.token})
        keeper.process.terminate()
        assert keeper.process.wait(60) == 0


def test_a_child_that_is_stopped_between_two_calls_is_ended_and_told(keeper: Any) -> None:
    stopped, other = keeper.load("hello"), keeper.load("hello")
    assert stopped.run()["status"] == 0
    watch = keeper.watch()
    os.kill(stopped.reply.pid, signal.SIGSTOP)
    assert "stopped by a signal" in watch.until(of(stopped.instance, "gone")).reason
    watch.close()
    assert other.run()["status"] == 0


def test_a_keeper_whose_zygote_is_stopped_ends(start_keeper: Start) -> None:
    keeper = start_keeper()
    os.kill(keeper.zygote, signal.SIGSTOP)
    assert keeper.process.wait(60) == 1
    assert "the zygote was stopped" in keeper.log_file.read_text()


def test_children_die_with_a_killed_keeper(start_keeper: Start) -> None:
    keeper = start_keeper()
    loaded = keeper.load("hello")
    pidfd = os.pidfd_open(loaded.reply.pid)
    keeper.process.kill()
    poll = select.poll()
    poll.register(pidfd, 1)
    assert poll.poll(10_000)
    os.close(pidfd)


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


def test_every_thread_of_a_child_is_confined(keeper: Any) -> None:
    sort = keeper.load("sort")
    sort.run("2", "1")
    threads = list(Path(f"/proc/{sort.reply.pid}/task").iterdir())
    assert len(threads) > 1  # of tokio, and the ticker
    for thread in threads:
        status = dict(
            line.split(":\t") for line in (thread / "status").read_text().splitlines() if line[-1:]
        )
        assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
