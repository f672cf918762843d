"""One platform for each test, with a warm function and, at its end, an account of it all."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from services.bus.connection import connect
from tests.conftest import NatsServer
from tests.faults.account import settled
from tests.faults.rig import FUNCTION, PARTS, Rig
from tests.services.scheduler.stack import running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is here: these tests own the machine while they run."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.faults)


@pytest_asyncio.fixture
async def rig(tmp_path: Path, nats_server: NatsServer) -> AsyncIterator[Rig]:
    """A platform whose function `sort` is warm. After the test it must be what the specs say."""
    async with (
        connect(nats_server.settings, "test") as bus,
        running(Rig(tmp_path, nats_server.settings, bus)) as rig,
    ):
        await rig.run(*PARTS)
        # Warm, and never scaled away under a test that looks elsewhere.
        await rig.deploy(FUNCTION, scaling={"min_instances": 1, "max_instances": 4})
        await rig.apply("route", FUNCTION, {"function": FUNCTION, "path": f"/{FUNCTION}"})
        await rig.serving()
        yield rig
        await settled(rig)
