"""The real compiler, and stand-ins that misbehave as no real one should."""

import asyncio
import os
import select
import sys
from pathlib import Path

import msgspec
import pytest

from services.builder.compile import Compiled, CompileLimits, compile_module, engine_hash
from services.builder.errors import Rejected, Unavailable
from services.builder.inspect import inspect
from tests.services.builder import wasm

SORT = (Path(__file__).parents[3] / "examples" / "sort" / "sort.wasm").read_bytes()
LIMITS = CompileLimits(wall_s=30.0, cpu_s=30, memory_mib=1024)


def limits(**changes) -> CompileLimits:
    return msgspec.structs.replace(LIMITS, **changes)


def leftovers(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def ends(pid: int) -> bool:
    """Whether the process ends (SIGKILL takes a moment to arrive)."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 10)[0])
    finally:
        os.close(descriptor)


def stand_in(code: str) -> list[str]:
    """A program instead of the keeper; `sys.argv` is what the keeper would get."""
    return [sys.executable, "-c", f"import os, sys, time\n{code}"]


async def refusal(module: bytes, work: Path, using: CompileLimits, *keeper: list[str]) -> str:
    with pytest.raises(Rejected) as caught:
        await compile_module(module, work, using, *keeper)
    return str(caught.value)


def test_nothing_of_a_compilation_stays_behind_and_the_artifact_fits_the_engine(tmp_path: Path):
    compiled = asyncio.run(compile_module(SORT, tmp_path, LIMITS))
    assert compiled.engine == asyncio.run(engine_hash(tmp_path, LIMITS))
    assert compiled.code[:4] == b"\x7fELF"
    assert leftovers(tmp_path) == []


async def test_an_invalid_module_fails_with_the_compilers_sentence(tmp_path: Path):
    module = wasm.module(body=b"\x00\x6a\x0b")  # i32.add of nothing
    inspect(module, max_bytes=1000, max_memory_bytes=1 << 20)
    assert "type mismatch" in await refusal(module, tmp_path, LIMITS)


async def test_start_with_parameters_is_refused(tmp_path: Path):
    module = wasm.module().replace(wasm.NOTHING_TO_NOTHING, b"\x60\x01\x7f\x00")
    module = module[:8] + wasm.section(1, wasm.vector([b"\x60\x01\x7f\x00"])) + module[15:]
    assert "without parameters and results" in await refusal(module, tmp_path, LIMITS)


async def test_a_compile_bomb_is_ended_by_its_cpu_time(tmp_path: Path):
    bomb = wasm.compile_bomb(6000)
    inspect(bomb, max_bytes=1 << 20, max_memory_bytes=1 << 20)
    said = await refusal(bomb, tmp_path, limits(cpu_s=1))
    assert said.startswith("compiling the module takes more than 1 s of CPU time; split")
    assert leftovers(tmp_path) == []


async def test_a_compile_bomb_is_ended_by_its_memory(tmp_path: Path):
    said = await refusal(wasm.compile_bomb(3000), tmp_path, limits(memory_mib=96))
    assert said.startswith("compiling the module takes more than 96 MiB of memory; split")


async def test_the_wall_clock_ends_a_compiler_that_sleeps(tmp_path: Path):
    said = await refusal(b"", tmp_path, limits(wall_s=0.3), stand_in("time.sleep(60)"))
    assert "takes more than 0.3 s" in said


async def test_what_a_compiler_leaves_running_is_killed(tmp_path: Path):
    pid = tmp_path / "pid"
    code = f"""
if not os.fork():
    open({str(pid)!r}, "w").write(str(os.getpid()))
    os.close(1)
    time.sleep(60)
while not os.path.exists({str(pid)!r}) or not os.path.getsize({str(pid)!r}):
    time.sleep(0.001)
sys.exit(3)
"""
    with pytest.raises(Unavailable, match="exit code 3"):
        await compile_module(b"", tmp_path / "work", LIMITS, stand_in(code))
    assert ends(int(pid.read_text()))


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("open(sys.argv[3], 'wb').write(b'x' * 9000000)", "has more than 4 MiB"),
        ("os.kill(os.getpid(), 11)", "the compiler crashes on this module (SIGSEGV)"),
        ("bytearray(9 << 30)", "more than 1024 MiB of memory"),
        ('print(\'{"error": "it is bad"}\'); sys.exit(1)', "it is bad"),
    ],
)
async def test_however_a_compiler_fails_there_is_one_sentence(tmp_path, code, sentence):
    said = await refusal(b"", tmp_path, limits(artifact_mib=4), stand_in(code))
    assert sentence in said


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("os.kill(os.getpid(), 9)", "the compiler was killed"),
        ("raise RuntimeError('no engine')", "RuntimeError: no engine"),
        ("print('garbage')", "exit code 0"),
    ],
)
async def test_a_compiler_that_cannot_work_is_a_reason_to_wait(tmp_path, code, sentence):
    with pytest.raises(Unavailable, match=sentence):
        await compile_module(b"", tmp_path, LIMITS, stand_in(code))
    with pytest.raises(Unavailable):
        await engine_hash(tmp_path, LIMITS, stand_in("sys.exit(1)"))


async def test_the_compiler_sees_nothing_of_our_environment(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("SECRET", "s3cret")
    code = """
import json
assert "SECRET" not in os.environ and os.listdir() == []
open(sys.argv[3], "wb").write(b"ok")
print(json.dumps({"engine": "e"}))
"""
    compiled = await compile_module(b"", tmp_path, LIMITS, stand_in(code))
    assert compiled == Compiled("e", b"ok")


async def test_a_folder_that_cannot_be_written_is_a_reason_to_wait(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="cannot compile in"):
        await compile_module(SORT, tmp_path / "file", LIMITS)
