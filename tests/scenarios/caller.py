"""What a user of the platform does in nearly every scenario: deploy an example, and call it."""

import secrets
from pathlib import Path

import httpx
import msgspec

from schemas.endpoints import Endpoint
from tests.scenarios.platforms.protocol import Platform

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> str:
    return str(EXAMPLES / name / f"{name}.wasm")


def bytes_of(name: str) -> bytes:
    return Path(example(name)).read_bytes()


def never_built(name: str, file: Path) -> bytes:
    """Write an example that no builder has seen, by a custom section at its end."""
    note = secrets.token_bytes(16)
    content = bytes_of(name) + b"\0" + bytes([len(note) + 2, 1]) + b"n" + note
    file.write_bytes(content)
    return content


def deploy(platform: Platform, example_name: str, name: str, *options: str) -> None:
    done = platform.cli("deploy", example(example_name), "--name", name, *options)
    assert done.returncode == 0, done.stderr.decode()


async def post(platform: Platform, path: str, **body: object) -> httpx.Response:
    async with httpx.AsyncClient() as http:
        return await http.post(platform.http + path, json=body, timeout=60)


async def endpoints(platform: Platform, function: str) -> list[Endpoint]:
    async with platform.insight() as client:
        found = await client._snapshot("ENDPOINTS", f"wasmfn.endpoints.default.{function}.*")
    return [msgspec.json.decode(entry.payload, type=Endpoint) for entry in found]
