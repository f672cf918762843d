"""One platform for each test, with a warm function and, at its end, an account of it all."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from services.bus.connection import connect
from tests.conftest import NatsServer
from tests.faults.account import accounted, settled
from tests.faults.rig import FUNCTION, PARTS, SPEC, Rig
from tests.services.scheduler.stack import running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is here: these tests own the machine while they run."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.faults)


@pytest.fixture
def keeper_ip() -> str:
    """Where keepers listen."""
    return "127.0.0.1"


@pytest_asyncio.fixture
async def rig(tmp_path: Path, nats_server: NatsServer, keeper_ip: str) -> AsyncIterator[Rig]:
    """A platform whose function `sort` is warm. After the test it must be what the specs say."""
    async with (
        connect(nats_server.settings, "test") as bus,
        running(Rig(tmp_path, nats_server.settings, bus, keeper_ip)) as rig,
    ):
        await rig.run(*PARTS)
        await rig.deploy(FUNCTION, **SPEC)
        await rig.apply("route", FUNCTION, {"function": FUNCTION, "path": f"/{FUNCTION}"})
        await rig.serving()
        yield rig
        for load in rig.loads:
            rig.note(load.figures())
            await accounted(rig, load)
        await settled(rig)
