import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def keeper(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "keeper", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_report_says_what_is_in_the_module(compiler: Any, tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "examples" / "sort" / "sort.wasm"
    target = tmp_path / "out"
    ended = keeper("compile", str(source), str(target), "--json")
    report = json.loads(ended.stdout)
    assert ended.returncode == 0
    assert (report["ok"], report["error"]) == (True, None)
    assert report["engine"] == compiler.engine_hash == keeper("engine-hash").stdout.strip()
    assert {i["module"] for i in report["imports"]} == {"wasi_snapshot_preview1"}
    assert {"name": "_start", "kind": "function"} in report["exports"]
    assert report["memory_min_pages"] == 2
    assert target.read_bytes() == compiler("sort")[1]


def test_what_is_no_module_is_a_report_with_a_sentence_and_no_file(tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(b"hello")
    ended = keeper("compile", str(source), str(target), "--json")
    report = json.loads(ended.stdout)
    assert ended.returncode == 1
    assert report["ok"] is False
    assert "not a WebAssembly module" in report["error"]
    assert not target.exists()


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_missing_file_is_one_sentence(tmp_path: Path, flags: list[str]) -> None:
    ended = keeper("compile", str(tmp_path / "in"), str(tmp_path / "out"), *flags)
    assert ended.returncode == 1
    assert ended.stderr.startswith("keeper: cannot compile")
    assert len(ended.stderr.splitlines()) == 1
