"""A scheduler with everything it works with, real: NATS, builder, podwatch, keepers."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from services.bus.connection import connect
from tests.conftest import NatsServer
from tests.services.scheduler.stack import Stack, running


@pytest_asyncio.fixture
async def bare(tmp_path: Path, nats_server: NatsServer) -> AsyncIterator[Stack]:
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
