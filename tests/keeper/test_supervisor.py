"""Supervisors of whole keepers: how children end, who is told, and what ends with whom."""

import contextlib
import http.client
import json
import os
import select
import signal
import threading
from collections.abc import Callable
from typing import Any

from schemas.control import WatchSnapshot, WatchTick
from schemas.specs import Limits

Start = Callable[..., Any]


def test_who_takes_an_instance_id_that_is_taken_is_ended(start_keeper: Start) -> None:
    keeper = start_keeper()
    first = keeper.load("hello")
    # It may answer before it is ended.
    with contextlib.suppress(OSError, http.client.HTTPException):
        keeper.load("hello", instance=first.instance)
    keeper.log_until(lambda line: "an instance of this id is loaded already" in line["text"])
    assert first.run()["status"] == 0


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
    assert watch.gone(loaded.instance) == "drained"
    watch.close()


def test_a_drain_deadline_ends_even_an_endless_request(keeper: Any) -> None:
    loaded = keeper.load("spin", limits=Limits(timeout_s=60))
    watch = keeper.watch()
    with contextlib.closing(loaded.connect()) as connection:
        connection.request("POST", "/", b"", {"x-wasmfn-instance": loaded.token})
        while not keeper.in_flight(loaded.instance):
            pass
        keeper.unload(loaded.instance, "drain", deadline_s=0.2)
        assert "deadline" in watch.gone(loaded.instance)
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
    assert watch.gone(loaded.instance) == "killed by SIGKILL: not by the keeper"
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
        assert "stuck in a host call" in watch.gone(stuck.instance)
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


def test_lines_of_a_function_that_are_lost_are_told_of_in_its_log(start_keeper: Start) -> None:
    flood = """(module
      (import "wasi_snapshot_preview1" "fd_write"
        (func $write (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1)
      (data (i32.const 0) "\\10\\00\\00\\00\\02\\00\\00\\00")
      (data (i32.const 16) "x\\n")
      (func (export "_start") (local $left i32)
        (local.set $left (i32.const 30000))
        (loop
          (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
          (local.set $left (i32.sub (local.get $left) (i32.const 1)))
          (br_if 0 (local.get $left)))))"""
    keeper = start_keeper()
    loaded = keeper.load(flood)
    os.kill(keeper.process.pid, signal.SIGSTOP)
    assert loaded.run()["status"] == 0
    os.kill(keeper.process.pid, signal.SIGCONT)
    told = keeper.log_until(lambda line: "lines were lost" in line["text"])
    assert (told["instance"], told["level"]) == (loaded.instance, "warning")


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
    assert "stopped by a signal" in watch.gone(stopped.instance)
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
