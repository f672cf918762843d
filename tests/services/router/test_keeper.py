"""Through the router to a real keeper that runs a real module."""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.services.router.clients import eventually, request
from tests.services.router.gate import Gate
from tests.services.router.instances import Instance

SORT = Path(__file__).parents[3] / "examples" / "sort" / "sort.wasm"


@pytest.fixture
async def keeper(gate: Gate) -> AsyncIterator[int]:
    """Run a standalone keeper as an instance of `f`, and return its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "keeper", "--mod-path", str(SORT), "--port", str(port),
        "--host", "127.0.0.1", "--interface", "args", stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip

    async def answers() -> bool:
        try:
            await request(port, "POST", "/", b"{}")
        except OSError:
            return False
        return True

    await eventually(answers)
    instance = Instance("f", _never, port=port, concurrency=8)
    gate.put(instance.endpoint)
    yield port
    process.terminate()
    await process.wait()


async def _never(_: object) -> None:
    raise AssertionError("the real keeper serves")


async def test_a_module_answers_through_the_router_as_the_keeper_promises(
    gate: Gate, keeper: int
) -> None:
    async def sort(*numbers: str) -> list[str]:
        body = json.dumps({"args": numbers}).encode()
        response = await gate.request("POST", "/f", body, {"content-type": "application/json"})
        assert response.status == 200
        answer = json.loads(response.body)
        assert answer["status"] == 0
        return list(answer["output"])

    answers = await asyncio.gather(*(sort("3", str(i), "20") for i in range(20)))
    direct = await request(keeper, "POST", "/", b'{"args":["3","5","20"]}')
    assert answers[5] == json.loads(direct.body)["output"]
    bad = await gate.request("POST", "/f", b"{not json")
    assert bad.status == 400
    # Asked first, since it cannot be sent twice.
    large = await gate.request("POST", "/f", b'{"args": ["' + b"7" * 500_000 + b'"]}')
    assert json.loads(large.body)["status"] in (0, 1)
    assert gate.quiet()
