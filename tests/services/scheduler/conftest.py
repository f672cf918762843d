"""A scheduler with everything it works with, real: NATS, builder, podwatch, keepers."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

sys.path.insert(0, str(Path(__file__).parent))

from stack import Stack, running

from services.bus.connection import connect


@pytest_asyncio.fixture
async def bare(tmp_path: Path, nats_server) -> AsyncIterator[Stack]:  # type: ignore[no-untyped-def]
    """Everything but a scheduler."""
    async with (
        connect(nats_server.settings, "test") as bus,
        running(Stack(tmp_path, nats_server.settings, bus)) as stack,
    ):
        stack.start("podwatch")
        stack.start("builder")
        yield stack


@pytest_asyncio.fixture
async def stack(bare: Stack) -> Stack:
    """Everything, with one scheduler that leads."""
    bare.start("scheduler", keeper_linger_s=0.5)
    await bare.until(lambda: bare.events("leader-elected"))
    return bare
