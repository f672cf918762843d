"""What is accepted is kept: over a restart, and over the death of a part."""

from pathlib import Path

import httpx

from tests.scenarios.platforms.protocol import Platform

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_functions_come_back_by_themselves_after_a_restart(platform: Platform) -> None:
    module = str(EXAMPLES / "hello" / "hello.wasm")
    assert platform.cli("deploy", module, "--name", "lasting").returncode == 0
    before = platform.cli("fn", "list", "-o", "name").stdout
    platform.restart()
    assert platform.cli("fn", "list", "-o", "name").stdout == before
    answer = httpx.post(f"{platform.http}/lasting", json={}, timeout=30)
    assert answer.json().get("output") == ["hello, world"], answer.text
    told = platform.cli("events", "--since", "10m", "--function", "lasting").stdout.decode()
    assert "spec-published" in told
