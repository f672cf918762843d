"""API keys of routes, as `wasmfn route` hands them out."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from schemas.specs import RouteSpec
from services.bus.streams import ensure_streams
from wasmfn.client import Key, connect
from wasmfn.discovery import Platform

WASMFN = Path(sys.executable).parent / "wasmfn"


async def test_a_key_is_printed_although_the_platform_goes_away(
    nats_server: Any, tmp_path: Path
) -> None:
    async with connect(Platform(nats_url=nats_server.url)) as client:
        await ensure_streams(client.bus.js)
        await client.publish(Key("route", "default", "shop"), RouteSpec("shop", path="/shop"))
    # Nobody judges what is published here, so the command waits.
    granting = await asyncio.create_subprocess_exec(
        WASMFN, "route", "grant", "shop", "--client", "ann", "--nats", nats_server.url,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert granting.stdout is not None
        assert (await granting.stdout.readline()).startswith(b"wfk_")
    finally:
        granting.kill()
        await granting.communicate()
