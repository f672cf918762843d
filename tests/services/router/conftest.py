"""Routers for tests: in this process, and as a process beside a real nats-server."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from services.router.bounded import ClientLimits
from services.router.limits import Limits
from tests.conftest import NatsServer
from tests.services.router.gate import Gate
from tests.services.router.platform import Platform


@pytest.fixture
async def platform(nats_server: NatsServer) -> AsyncIterator[Platform]:
    """Return an empty platform: streams, and whoever the test makes speak."""
    platform = Platform(nats_server.url)
    await platform.connect()
    yield platform
    await platform.close()


@pytest.fixture
async def make_gate() -> AsyncIterator[Callable[..., Awaitable[Gate]]]:
    """Return a function that opens a data port; fields of both kinds of limits may be given."""
    gates: list[Gate] = []

    async def make(per_function: int = 16, total: int = 64, **limits: Any) -> Gate:
        of_client = {f: limits.pop(f) for f in tuple(limits) if f in ClientLimits.__struct_fields__}
        values = {"park_s": 5.0, "stall_s": 5.0, "grace_s": 0.2} | limits
        gate = Gate(Limits(**values), ClientLimits(**of_client), (per_function, total))
        gates.append(gate)
        await gate.start()
        return gate

    yield make
    for gate in gates:
        await gate.close()


@pytest.fixture
async def gate(make_gate: Callable[..., Awaitable[Gate]]) -> Gate:
    """Return a data port with a function `f` at the prefix `/f`, without instances."""
    made = await make_gate()
    made.function()
    return made
