"""A build's pod gets its module, and nobody else does: the real fetcher at the real server."""

import asyncio
import contextlib
import os
import socket
import stat
import sys
from pathlib import Path

import httpx
import pytest

from schemas.names import sha256_hex
from services.builder.images.contexts import Contexts
from services.process import PublicError

MODULE = b"\0asm\1\0\0\0" * 1000
TOKEN = "t0ken"


class Fetching:
    """A fetcher's process, as the Job runs it."""

    def __init__(self, directory: Path, url: str, token: str = TOKEN) -> None:
        self.directory = directory
        self.file = directory / "context" / "x.wasm"
        self._environment = {
            "WASMFN_CONTEXT_URL": url,
            "WASMFN_CONTEXT_TOKEN": token,
            "WASMFN_CONTEXT_SHA256": sha256_hex(MODULE),
            "WASMFN_CONTEXT_FILE": str(self.file),
            "WASMFN_DOCKERFILE": "FROM scratch\n",
            "WASMFN_DOCKERFILE_FILE": str(directory / "Dockerfile"),
        }

    async def start(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "services.builder.images.fetch"),
            env={**os.environ, **self._environment},
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self) -> tuple[int, str]:
        """Run it to its end; return its status and what it said."""
        process = await self.start()
        async with asyncio.timeout(30):
            _, said = await process.communicate()
        assert process.returncode is not None
        return process.returncode, said.decode()


async def test_the_module_and_its_dockerfile_are_written(tmp_path: Path):
    contexts = Contexts()
    async with contexts.serving("127.0.0.1:0") as url:
        with contexts.offered("build-1", TOKEN, MODULE):
            fetching = Fetching(tmp_path, f"{url}/build-1")
            assert await fetching.run() == (0, "")
    assert fetching.file.read_bytes() == MODULE
    assert stat.S_IMODE(fetching.file.stat().st_mode) == 0o555
    assert (tmp_path / "Dockerfile").read_text() == "FROM scratch\n"


async def test_another_token_gets_nothing_and_asks_once(tmp_path: Path):
    contexts = Contexts()
    async with contexts.serving("127.0.0.1:0") as url:
        with contexts.offered("build-1", TOKEN, MODULE), contexts.offered("build-2", "", MODULE):
            fetching = Fetching(tmp_path, f"{url}/build-1", token="other")
            status, said = await fetching.run()
            assert (status, "the builder refuses the module" in said) == (1, True)
            # A Job that is given its module otherwise has no token: nobody may fetch that one.
            status, _ = await Fetching(tmp_path, f"{url}/build-2", token="").run()
            assert status == 1
    assert not fetching.file.parent.exists()


async def test_a_builder_that_is_away_or_does_not_know_yet_is_asked_again(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    fetching = Fetching(tmp_path, f"http://127.0.0.1:{port}/build-1")
    process = await fetching.start()
    assert process.stderr is not None
    async with asyncio.timeout(60):
        assert b"Connection refused" in await process.stderr.readline()
        contexts = Contexts()
        async with contexts.serving(f"127.0.0.1:{port}"):
            assert b"it answers 404" in await process.stderr.readline()
            with contexts.offered("build-1", TOKEN, MODULE):
                assert await process.wait() == 0
    assert fetching.file.read_bytes() == MODULE


async def test_a_module_that_was_changed_on_the_way_is_refused(tmp_path: Path):
    contexts = Contexts()
    async with contexts.serving("127.0.0.1:0") as url:
        with contexts.offered("build-1", TOKEN, MODULE + b"x"):
            fetching = Fetching(tmp_path, f"{url}/build-1")
            status, said = await fetching.run()
    assert status == 1
    assert "sent another module" in said
    assert not fetching.file.parent.exists()


async def test_a_module_is_there_only_while_it_is_built():
    contexts = Contexts()
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with contexts.serving("127.0.0.1:0") as url, httpx.AsyncClient() as client:
        with contexts.offered("build-1", TOKEN, MODULE):
            assert (await client.get(f"{url}/build-1", headers=headers)).content == MODULE
            assert (await client.get(f"{url}/build-1")).status_code == 403
            assert (await client.put(f"{url}/build-1", headers=headers)).status_code == 405
        assert (await client.get(f"{url}/build-1", headers=headers)).status_code == 404


async def test_an_address_that_cannot_be_listened_on_is_named():
    async with contextlib.AsyncExitStack() as stack:
        with pytest.raises(PublicError, match="cannot listen on nowhere for builds"):
            await stack.enter_async_context(Contexts().serving("nowhere"))
