"""The calls of a loaded function: how they take turns, what ends them, what they may print."""

import json
import threading
from typing import Any

from schemas.specs import Limits


def test_a_long_call_does_not_hold_up_short_ones(keeper: Any) -> None:
    spin = keeper.load("burn", limits=Limits(timeout_s=2))
    answers: list[dict[str, Any]] = []
    long = threading.Thread(target=lambda: answers.append(spin.run("99999999999")))
    long.start()
    while not keeper.in_flight(spin.instance):
        pass
    assert spin.run("1")["status"] == 0
    assert not answers
    long.join()
    assert answers[0]["error"] == "timed out after 2 s"


def test_overlapping_requests_never_mix_their_output(keeper: Any) -> None:
    burn = keeper.load("burn", limits=Limits(timeout_s=60))
    counts = [str(n) for n in range(10_000_000, 10_000_008)]
    alone = {n: burn.run(n)["output"] for n in counts}
    together: dict[str, Any] = {}
    threads = [
        threading.Thread(target=lambda n=n: together.update({n: burn.run(n)["output"]}))  # type: ignore[misc]
        for n in counts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_10_mb_of_output_arrive_whole(keeper: Any) -> None:
    flood = keeper.load("flood")
    status, body, _ = flood.call(headers={"accept": "application/octet-stream"})
    assert (status, len(body)) == (200, 10 << 20)


def test_output_above_the_limit_is_told_with_what_came_before(keeper: Any) -> None:
    flood = keeper.load("flood", limits=Limits(timeout_s=5, output_bytes=1000))
    result = flood.run()
    assert (result["status"], result["error"]) == (1, "output exceeds 1000 bytes")
    assert len("\n".join(result["output"])) >= 999


def test_what_a_flood_could_not_write_is_never_the_next_call_s_output(keeper: Any) -> None:
    # With an argument: writes 1000 bytes without a line end until the file is full, and on.
    module = """(module
      (import "wasi_snapshot_preview1" "fd_write"
        (func $write (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
      (memory (export "memory") 1)
      (data (i32.const 0) "\\64\\00\\00\\00\\02\\00\\00\\00")
      (data (i32.const 16) "\\64\\00\\00\\00\\e8\\03\\00\\00")
      (data (i32.const 100) "hi")
      (func (export "_start") (local $left i32)
        (drop (call $sizes (i32.const 32) (i32.const 36)))
        (if (i32.eq (i32.load (i32.const 32)) (i32.const 1))
          (then (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 40)))
                (return)))
        (local.set $left (i32.const 200))
        (loop
          (drop (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 40)))
          (local.set $left (i32.sub (local.get $left) (i32.const 1)))
          (br_if 0 (local.get $left)))))"""
    function = keeper.load(module, limits=Limits(timeout_s=5, output_bytes=4096))
    for _ in range(3):
        assert function.run("flood")["error"] == "output exceeds 4096 bytes"
        assert function.run()["output"] == ["hi"]


def test_a_timeout_is_504_and_the_next_request_is_served(keeper: Any) -> None:
    spin = keeper.load("spin", limits=Limits(timeout_s=0.1))
    for _ in range(2):
        status, body, _ = spin.call()
        assert (status, json.loads(body)["error"]) == (504, "timed out after 0.1 s")
