import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keeper.answer import Invocation
from keeper.call import Call, Outcome
from keeper.function import Function, Host
from keeper.sandbox import Sandbox
from keeper.ticker import TICK_S, Ticker

pytestmark = pytest.mark.usefixtures("standard_streams")

MIB = 1 << 20
SANDBOX = Sandbox(memory_bytes=64 * MIB, output_bytes=MIB, timeout_s=60)

HELLO = """(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "hi")
  (data (i32.const 0) "\\10\\00\\00\\00\\02\\00\\00\\00")
  (func (export "_start")
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32)))))"""


def start(body: str, before: str = '(memory (export "memory") 1)') -> str:
    return f'(module {before} (func (export "_start") {body}))'


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def step(call: Call, ticker: Ticker) -> Outcome | None:
    ticker.enter()
    outcome = call.step()
    ticker.leave()
    return outcome


class Bench:
    """One engine, its ticker, and functions prepared from examples or WAT."""

    def __init__(self, compiler: Any) -> None:
        self._compiler = compiler
        self._host = Host()
        self._tickers: dict[int, Ticker] = {}

    def prepare(self, source: str, sandbox: Sandbox = SANDBOX, **variables: str) -> Function:
        descriptor = os.memfd_create("test")
        os.write(descriptor, self._compiler(source)[1])
        function = Function(self._host, f"/proc/self/fd/{descriptor}", sandbox, variables)
        os.close(descriptor)
        return function

    def run(self, function: Function, *args: str, stdin: bytes = b"") -> Outcome:
        ticker = self._tickers.setdefault(id(function.engine), Ticker(function.engine))
        invocation = Invocation([b"x.wasm", *(a.encode() for a in args)], stdin)
        call = function.call(invocation.argv, invocation.stdin)
        while (outcome := step(call, ticker)) is None:
            pass
        return outcome


@pytest.fixture(scope="module")
def bench(compiler: Any) -> Bench:
    return Bench(compiler)


@pytest.mark.parametrize(
    ("name", "args", "stdin", "stdout"),
    [
        ("sort", ["1111", "2345", "8"], b"", b"8 1111 2345\n"),
        ("hello", ["you"], b"", b"hello, you\n"),
        ("echo", [], b"\x00\xff" * 100_000, b"\x00\xff" * 100_000),
        ("badutf8", [], b"", b"ok \x80 \xc3( \xed\xa0\x80 \xff\n"),
    ],
)
def test_a_module_gets_its_arguments_and_stdin_and_gives_its_stdout(
    bench: Bench, name: str, args: list[str], stdin: bytes, stdout: bytes
) -> None:
    outcome = bench.run(bench.prepare(name), *args, stdin=stdin)
    assert (outcome.exit_code, outcome.error, outcome.stdout) == (0, None, stdout)


def test_a_module_sees_its_own_variables_only(bench: Bench) -> None:
    os.environ["SECRET_OF_THE_KEEPER"] = "1"
    outcome = bench.run(bench.prepare("env", A="1", B="ü"))
    assert outcome.stdout.decode() == "A=1\nB=ü\n"


def test_an_exit_code_is_reported_with_partial_output_and_stderr(bench: Bench) -> None:
    outcome = bench.run(bench.prepare("exit3"))
    assert outcome.exit_code == 3
    assert outcome.error == "exited with code 3"
    assert outcome.stdout == b"partial output\n"
    assert outcome.stderr == b"exit3: giving up\n"


def test_exit_0_is_a_success(bench: Bench) -> None:
    module = start(
        "(call $exit (i32.const 0))",
        '(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))'
        '(memory (export "memory") 1)',
    )
    assert bench.run(bench.prepare(module)).error is None


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (start("unreachable"), "unreachable"),
        (start("(call $f)", "(func $f (call $f))"), "call stack exhausted"),
        (start("(drop (i32.div_u (i32.const 1) (i32.const 0)))"), "divide by zero"),
        (start("(drop (i32.load (i32.const 999999)))"), "out of bounds"),
        (start("", '(memory (export "memory") 5000)'), "exceeds memory limits"),
    ],
)
def test_a_trap_is_told_by_its_reason(bench: Bench, module: str, reason: str) -> None:
    outcome = bench.run(bench.prepare(module))
    assert outcome.exit_code is None
    assert outcome.error is not None
    assert reason in outcome.error


@pytest.mark.parametrize(
    "module",
    [
        "spin",
        '(module (func $f (loop br 0)) (start $f) (func (export "_start")))',
        start("(loop (drop (memory.grow (i32.const 10))) (br 0))"),
        start(
            "(loop (drop (table.grow (ref.null func) (i32.const 1000))) (br 0))",
            "(table 1 funcref)",
        ),
        # By fuel this would count as a handful of instructions an hour.
        start(
            "(loop (memory.fill (i32.const 0) (i32.const 1) (i32.const 30000000)) (br 0))",
            '(memory (export "memory") 500)',
        ),
    ],
)
def test_what_never_ends_is_ended_at_its_deadline(bench: Bench, module: str) -> None:
    outcome = bench.run(bench.prepare(module, Sandbox(64 * MIB, MIB, timeout_s=0.3)))
    assert outcome.timed_out
    assert outcome.error == "timed out after 0.3 s"
    assert 300 <= outcome.run_ms < 30_000


def test_memory_is_capped_and_the_function_may_handle_it(bench: Bench) -> None:
    outcome = bench.run(bench.prepare("hog"))
    assert outcome.error is None
    assert 50 < int(outcome.stdout.split()[0]) < 64


def test_output_beyond_the_limit_ends_the_call_with_what_came_before(bench: Bench) -> None:
    outcome = bench.run(bench.prepare("flood"))
    assert outcome.error == f"output exceeds {MIB} bytes"
    assert len(outcome.stdout) == MIB


def test_an_endless_flood_is_ended_before_its_time(bench: Bench) -> None:
    endless = HELLO.replace("(drop (call", "(loop (drop (call").replace(
        "32)))))", "32))) (br 0))))"
    )
    sandbox = Sandbox(64 * MIB, 1000, timeout_s=60)
    outcome = bench.run(bench.prepare(endless, sandbox))
    assert outcome.error == "output exceeds 1000 bytes"


def test_output_above_the_size_of_a_pipe_arrives_whole(bench: Bench) -> None:
    outcome = bench.run(bench.prepare("flood"), "500000")
    assert (outcome.error, len(outcome.stdout)) == (None, 500_000)


def test_each_call_gets_a_fresh_sandbox(bench: Bench) -> None:
    counter = HELLO.replace(
        "(drop (call",
        "(i32.store8 (i32.const 16) (i32.add (i32.load8_u (i32.const 16)) (i32.const 1)))"
        "(drop (call",
    )
    function = bench.prepare(counter)
    assert {bench.run(function).stdout for _ in range(3)} == {b"ii"}


def test_overlapping_calls_keep_their_output_apart(bench: Bench) -> None:
    function = bench.prepare("burn", Sandbox(64 * MIB, MIB, timeout_s=60))
    alone = [bench.run(function, str(n)).stdout for n in (20_000_001, 20_000_002)]
    ticker = Ticker(function.engine)
    calls = [function.call([b"x", str(n).encode()]) for n in (20_000_001, 20_000_002)]
    outcomes: dict[int, Outcome] = {}
    turns = 0
    while len(outcomes) < 2:
        for i, call in enumerate(calls):
            if i not in outcomes:
                turns += 1
                if (outcome := step(call, ticker)) is not None:
                    outcomes[i] = outcome
    assert [outcomes[0].stdout, outcomes[1].stdout] == alone
    assert turns > 4  # they did take turns


def test_bad_pointers_to_wasi_do_no_harm(bench: Bench) -> None:
    bad = HELLO.replace(
        "(i32.const 0) (i32.const 1) (i32.const 32)", "(i32.const -8) (i32.const 9) (i32.const -4)"
    )
    outcome = bench.run(bench.prepare(bad))
    assert outcome.exit_code is None or outcome.error is None
    assert bench.run(bench.prepare(HELLO)).stdout == b"hi"


def test_a_module_too_large_for_the_pool_runs_without_it(bench: Bench) -> None:
    function = bench.prepare(start("", "(table 50000 funcref)"))
    assert bench.run(function).error is None


def test_200_traps_leak_no_descriptor(bench: Bench) -> None:
    function = bench.prepare("trap")
    bench.run(function)
    before = open_descriptors()
    assert {bench.run(function).stdout for _ in range(200)} == {b"before the trap\n"}
    assert open_descriptors() == before


def test_output_comes_from_where_the_last_call_ended(bench: Bench) -> None:
    function = bench.prepare("echo")
    for size in (1, 20_000, 3, 16 * 1024, 5, 300_000, 15_000, 15_000, 15_000, 15_000, 7):
        stdin = os.urandom(size)
        assert bench.run(function, stdin=stdin).stdout == stdin


def test_thousands_of_calls_take_no_more_memory_and_no_descriptor(bench: Bench) -> None:
    function = bench.prepare("sort")
    argv = [b"sort.wasm", *(b"%d" % n for n in range(8))]

    def calls(count: int) -> tuple[int, int]:
        for _ in range(count):
            call = function.call(argv)
            while call.step() is None:
                pass
        return open_descriptors(), int(Path("/proc/self/statm").read_text().split()[1])

    descriptors, pages = calls(1000)
    more_descriptors, more_pages = calls(10_000)
    assert more_descriptors == descriptors
    assert more_pages < 1.02 * pages


def test_arguments_that_wasi_refuses_are_an_error_and_leak_nothing(bench: Bench) -> None:
    function = bench.prepare("hello")
    with pytest.raises(ValueError, match="UTF-8"):
        function.call([b"\xff"])
    assert bench.run(function).stdout == b"hello, world\n"


def test_an_idle_ticker_does_not_wake_up(bench: Bench, wait_for: Callable[..., None]) -> None:
    ticker = Ticker(bench.prepare("hello").engine)
    ticker.enter()
    assert not ticker._parked
    ticker.leave()
    wait_for(lambda: ticker._parked)
    ticker.enter()
    assert not ticker._parked
    ticker.leave()
    wait_for(lambda: ticker._parked)


def test_a_slice_that_starts_late_still_ends(bench: Bench) -> None:
    # As on a machine with too much to do: ticks pass before user code runs.
    function = bench.prepare("spin", Sandbox(64 * MIB, MIB, timeout_s=60))
    ticker = Ticker(function.engine)
    call = function.call([b"spin.wasm"])
    for _ in range(3):
        ticker.enter()
        time.sleep(10 * TICK_S)
        assert call.step() is None
        ticker.leave()
        time.sleep(10 * TICK_S)
    assert call.drop().timed_out
