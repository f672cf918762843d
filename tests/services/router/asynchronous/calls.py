"""What tests of asynchronous invocations do over and over."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from schemas.invocations import DeadLetter
from schemas.specs import Asynchronous
from tests.services.router.clients import eventually
from tests.services.router.instances import Call
from tests.services.router.platform import Platform, Router

ASYNC = {"prefer": "respond-async"}


def hangs_first(begun: asyncio.Event) -> Callable[[Call], Awaitable[None]]:
    """Return a handler whose first call never ends; `begun` is set once that is made."""

    async def handler(call: Call) -> None:
        await call.read_body()
        if len(call.instance.calls) == 1:
            begun.set()
            await asyncio.Event().wait()
        await call.answer(b"ok")

    return handler


async def told(router: Router, location: str) -> dict[str, Any]:
    """Return what a location says."""
    response = await router.request("GET", location)
    assert response.status == 200, response.body
    return json.loads(response.body)


async def ended(router: Router, location: str) -> dict[str, Any]:
    """Wait until an invocation is done or dead, and return what its location says."""

    async def final() -> bool:
        return (await told(router, location))["state"] in ("done", "dead", "cancelled")

    await eventually(final, 60.0)
    return await told(router, location)


async def accepted(router: Router, body: bytes = b"x", path: str = "/f", **headers: str) -> str:
    """Have a request accepted, and return its location."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = await router.request("POST", path, body, ASYNC | named)
    assert response.status == 202, response.body
    return response.headers["location"]


async def ready(
    platform: Platform,
    handler: Any = None,
    *,
    timeout_s: float = 5.0,
    grace: str = "2",
    settings: Mapping[str, str] = MappingProxyType({}),
    **rules: Any,
) -> Router:
    """Return a router with a function `f` and one instance of it."""
    await platform.function(asynchronous=Asynchronous(**rules), timeout_s=timeout_s)
    await platform.route()
    if handler is None:
        await platform.instance(concurrency=64)
    else:
        await platform.instance(handler=handler, concurrency=64)
    return await platform.router(answer_grace_s=grace, **settings)


async def dead_letters(platform: Platform) -> list[DeadLetter]:
    """Return every dead letter."""
    info = await platform.js.stream_info("DEAD", subjects_filter=">")
    letters = []
    for subject in info.state.subjects or {}:
        raw = await platform.js.get_last_msg("DEAD", subject)
        if raw.data:
            letters.append(msgspec.json.decode(raw.data, type=DeadLetter))
    return letters
